"""The pipelines that are timed: three families at two sizes each, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from asyndm.protocols import Network, Pipeline
from asyndm.shapes.model import SD_SCHEDULER

LATENT = 64
"""Side of the latents."""
UNET_SHAPE: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "use_linear_projection": True,
    "sample_size": LATENT,
}
UNETS: dict[str, dict[str, Any]] = {
    "small": {
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": (1, 2, 4, 4),
        "cross_attention_dim": 128,
    },
    "full": {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
    },
}
SD35_SHAPE: dict[str, Any] = {
    "sample_size": LATENT,
    "pooled_projection_dim": 2048,
    "in_channels": 16,
    "out_channels": 16,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
}
SD35: dict[str, dict[str, Any]] = {
    "small": {
        "num_layers": 6,
        "num_attention_heads": 8,
        "joint_attention_dim": 256,
        "dual_attention_layers": (0, 1),
    },
    "full": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "dual_attention_layers": tuple(range(13)),
    },
}
FLUX: dict[str, dict[str, Any]] = {
    "small": {
        "num_layers": 3,
        "num_single_layers": 6,
        "num_attention_heads": 4,
        "joint_attention_dim": 256,
    },
    "full": {
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
    },
}


@dataclass(frozen=True)
class Case:
    """A pipeline to be timed, and its call's arguments."""

    pipe: Pipeline
    call: dict[str, Any] = field(default_factory=dict)


def build_unet(size: str, device: torch.device, dtype: torch.dtype) -> Case:
    """Stable Diffusion 2.1, or a small one of the same shape."""
    network = _build_network(UNet2DConditionModel, {**UNET_SHAPE, **UNETS[size]}, device, dtype)
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe: Any = StableDiffusionPipeline(
        vae=_build_autoencoder(4),
        unet=network,
        scheduler=DDIMScheduler(**SD_SCHEDULER),
        requires_safety_checker=False,
        **absent,
    )
    width = UNETS[size]["cross_attention_dim"]
    cond, uncond = torch.randn((2, 1, 77, width), device=device, dtype=dtype)
    texts = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
    return Case(pipe, {**texts, "guidance_scale": 5.0})


def build_sd35(size: str, device: torch.device, dtype: torch.dtype) -> Case:
    """Stable Diffusion 3.5 medium, or a small one."""
    settings = {**SD35_SHAPE, **SD35[size]}
    settings["caption_projection_dim"] = 64 * settings["num_attention_heads"]
    absent = [f"{part}{end}" for end in ("", "_2", "_3") for part in ("text_encoder", "tokenizer")]
    pipe: Any = StableDiffusion3Pipeline(
        vae=_build_autoencoder(16),
        transformer=_build_network(SD3Transformer2DModel, settings, device, dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(absent),
    )
    shape = (2, 1, 77 + 256, settings["joint_attention_dim"])
    cond, uncond = torch.randn(shape, device=device, dtype=dtype)
    pooled = torch.randn((1, 2048), device=device, dtype=dtype)
    texts = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
    texts |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": pooled}
    return Case(pipe, {**texts, "guidance_scale": 4.5})


def build_flux(size: str, device: torch.device, dtype: torch.dtype) -> Case:
    """FLUX.1 dev, or a small one."""
    settings = {"guidance_embeds": True, **FLUX[size]}
    absent = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipe: Any = FluxPipeline(
        vae=_build_autoencoder(16),
        transformer=_build_network(FluxTransformer2DModel, settings, device, dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        **dict.fromkeys(absent),
    )
    shape = (1, 512, settings["joint_attention_dim"])
    cond = torch.randn(shape, device=device, dtype=dtype)
    pooled = torch.randn((1, 768), device=device, dtype=dtype)
    return Case(pipe, {"prompt_embeds": cond, "pooled_prompt_embeds": pooled})


NETWORKS: dict[str, Callable[[str, torch.device, torch.dtype], Case]] = {
    "unet": build_unet,
    "sd35": build_sd35,
    "flux": build_flux,
}


def _build_network(
    build: Callable[..., Network],
    settings: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
) -> Network:
    torch.manual_seed(0)
    with torch.device(device):  # weights are drawn where they stay: the full sizes have billions
        network = build(**settings)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.to(dtype)
    return network.eval()


def _build_autoencoder(channels: int) -> Network:
    """Of the usual factor, 8; it decodes nothing here."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=channels, **blocks
    )
