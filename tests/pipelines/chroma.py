"""Tiny Chroma: FLUX.1 without CLIP and guidance embedding; text is masked after its first padding
token."""

from __future__ import annotations

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.pipelines.shared import (
    LOUDER,
    Tiny,
    finish,
    make_autoencoder,
    make_t5,
    make_t5_tokenizer,
)


def make_chroma(seed: int = 0) -> ChromaPipeline:
    torch.manual_seed(seed)
    tokenizer = make_t5_tokenizer()
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_autoencoder(shift_factor=0.1),
        text_encoder=make_t5(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return finish(pipe, seed, LOUDER | {"distilled_guidance_layer.out_proj": 0.1})


CHROMA = {"chroma": Tiny(make_chroma, {"max_sequence_length": 24})}
