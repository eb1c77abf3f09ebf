"""Tiny Lumina 2: Gemma reads a system prompt before the prompt; the network is told 1 - t."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

from tests.pipelines.sana import make_gemma, make_gemma_tokenizer
from tests.pipelines.shared import Tiny, finish, make_autoencoder


def make_lumina2(seed: int = 0) -> Lumina2Pipeline:
    torch.manual_seed(seed)
    tokenizer = make_gemma_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cap_feat_dim=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 32, 32),
    )
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=make_autoencoder(shift_factor=0.1),
        text_encoder=make_gemma(tokenizer),
        tokenizer=tokenizer,
    )
    return finish(pipe, seed, {"timestep_embedder.linear_1": 4.0})


LUMINA2 = {"lumina2": Tiny(make_lumina2, {"max_sequence_length": 256})}
