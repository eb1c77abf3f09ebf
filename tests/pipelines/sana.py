"""Tiny Sana: a language model for text encoder, an autoencoder of factor 16 (the real one has
32)."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from tests.pipelines.shared import LOUDER, WORDS, Tiny, finish, list_merges

TEXT = {"max_sequence_length": 24, "use_resolution_binning": False}
GAINS = LOUDER | {"attn2.to_out": 1.0, "attn2.to_q": 3.0, "conv2": 1.0}


def make_gemma_tokenizer() -> GemmaTokenizer:
    """Begins with <bos>; a word of WORDS is one token with the space before it, others are
    spelled."""
    merges = list_merges("▁" + word for word in WORDS)
    characters = ["▁", "\n", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *characters,
    ]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def make_gemma(tokenizer: GemmaTokenizer, width: int = 16) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2Model(config)


def make_deep_autoencoder() -> AutoencoderDC:
    depth = 5
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_types": "ResBlock",
            "block_out_channels": (8,) * depth,
            "layers_per_block": (1,) * depth,
            "qkv_multiscales": ((),) * depth,
        }.items()
    }
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.5,
        **sides,
    )


def make_parts(seed: int = 0) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    tokenizer = make_gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=32,
        patch_size=1,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": make_gemma(tokenizer),
        "vae": make_deep_autoencoder(),
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def make_sana(seed: int = 0) -> SanaPipeline:
    return finish(SanaPipeline(**make_parts(seed)), seed, GAINS)


def make_sana_dpm(seed: int = 0) -> SanaPipeline:
    """With the scheduler that Sana is published with."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return finish(SanaPipeline(**{**make_parts(seed), "scheduler": scheduler}), seed, GAINS)


SANA = {"sana": Tiny(make_sana, TEXT), "sana_dpm": Tiny(make_sana_dpm, TEXT)}
