"""Tiny AuraFlow: eight register tokens stand before the text."""

from __future__ import annotations

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from tests.pipelines.shared import LOUDER, Tiny, finish, make_autoencoder, make_t5_tokenizer


def make_umt5(tokenizer: T5Tokenizer, width: int = 32) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=width,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
    )
    return UMT5EncoderModel(config)


def make_auraflow(seed: int = 0) -> AuraFlowPipeline:
    torch.manual_seed(seed)
    tokenizer = make_t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    pipe = AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=make_umt5(tokenizer),
        vae=make_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    return finish(
        pipe,
        seed,
        LOUDER
        | {"attn.to_out": 3.0, "add_v_proj": 4.0, "norm1.linear": 1.0, ".ff": 0.5, "proj_out": 0.2},
    )


AURAFLOW = {"auraflow": Tiny(make_auraflow, {"max_sequence_length": 24})}
