"""Tiny PixArt: Sigma with DDIM and DPM-Solver, and Alpha, whose network is told the picture's
size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.pipelines.shared import Tiny, finish, make_autoencoder, make_t5, make_t5_tokenizer

TEXT = {"max_sequence_length": 24, "clean_caption": False, "use_resolution_binning": False}
NOISE = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
TRANSFORMER: dict[str, Any] = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,  # the variance is predicted too, and dropped by the pipeline
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "cross_attention_dim": 48,
    "caption_channels": 32,
    "attention_bias": True,
    "norm_num_groups": 4,
    "use_additional_conditions": False,
}


def make_parts(seed: int = 0, **transformer: Any) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    tokenizer = make_t5_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": make_t5(tokenizer),
        "vae": make_autoencoder(),
        "transformer": PixArtTransformer2DModel(**{**TRANSFORMER, **transformer}),
        "scheduler": DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
    }


def make_pixart(seed: int = 0) -> PixArtSigmaPipeline:
    return finish(PixArtSigmaPipeline(**make_parts(seed)), seed)


def make_pixart_dpm(seed: int = 0) -> PixArtSigmaPipeline:
    """With the scheduler that Sigma is published with."""
    scheduler = DPMSolverMultistepScheduler(**NOISE)
    return finish(PixArtSigmaPipeline(**{**make_parts(seed), "scheduler": scheduler}), seed)


def make_pixart_alpha(seed: int = 0) -> PixArtAlphaPipeline:
    """As the 1024 model, which is known by its sample size."""
    return finish(
        PixArtAlphaPipeline(**make_parts(seed, sample_size=128, use_additional_conditions=True)),
        seed,
    )


PIXART = {
    "pixart": Tiny(make_pixart, TEXT),
    "pixart_dpm": Tiny(make_pixart_dpm, TEXT),
    "pixart_alpha": Tiny(make_pixart_alpha, TEXT),
}
