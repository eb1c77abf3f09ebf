"""A LoRA of the denoiser: what is trained beside frozen weights, in the format of diffusers."""

from __future__ import annotations

from pathlib import Path

import torch

from asyndm.protocols import Pipeline

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers of attention, to pixels and to the prompt, that get low-rank factors."""


def add_adapter(pipe: Pipeline, rank: int, seed: int) -> None:
    """Freeze the networks, and add to each projection W of the UNet's attention the product of two
    factors, W + B A with A (rank, in) and B (out, rank) = 0, which alone want gradients."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    # peft multiplies the product by alpha / rank; files without an alpha are read as of this one
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS)))


def save_adapter(pipe: Pipeline, folder: Path) -> None:
    """The factors as `folder`/pytorch_lora_weights.safetensors, which ``asyndm.load(..., lora=)``
    and ``model.lora=`` read."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    factors = get_peft_model_state_dict(pipe.unet)
    StableDiffusionPipeline.save_lora_weights(folder, factors)
