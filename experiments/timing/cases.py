"""The pipelines that are timed: four at three sizes each, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
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
    StableDiffusionXLPipeline,
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
    "tiny": {
        "block_out_channels": (32,) * 4,
        "attention_head_dim": (1,) * 4,
        "cross_attention_dim": 16,
        "layers_per_block": 1,
    },
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
SDXL_SHAPE: dict[str, Any] = {
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "sample_size": 2 * LATENT,
}
SDXL: dict[str, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": (32,) * 3,
        "attention_head_dim": (1,) * 3,
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 8,
        "layers_per_block": 1,
    },
    "small": {
        "block_out_channels": (32, 64, 128),
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 128,
        "addition_time_embed_dim": 32,
    },
    "full": {
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
    },
}
TIME_WIDTH = "addition_time_embed_dim"
POOLED = {"tiny": 16, "small": 64, "full": 1280}
"""Width of SDXL's text as a whole."""
SD35_SHAPE: dict[str, Any] = {
    "sample_size": LATENT,
    "pooled_projection_dim": 2048,
    "in_channels": 16,
    "out_channels": 16,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
}
SD35: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_layers": 3,
        "num_attention_heads": 1,
        "joint_attention_dim": 16,
        "dual_attention_layers": (0,),
    },
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
    "tiny": {
        "num_layers": 1,
        "num_single_layers": 1,
        "num_attention_heads": 1,
        "joint_attention_dim": 16,
    },
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
    """A pipeline to be timed, and its call's arguments.

    Args:
        side: of its latents.
        batch: images of a call.
    """

    pipe: Pipeline
    call: dict[str, Any] = field(default_factory=dict)
    side: int = LATENT
    batch: int = 1

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)

    def repeat_call(self) -> dict[str, Any]:
        """The arguments for the whole batch. Some pipelines do not repeat texts they are given."""
        return {
            name: torch.cat([value] * self.batch) if isinstance(value, torch.Tensor) else value
            for name, value in self.call.items()
        }


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


def build_sdxl(size: str, device: torch.device, dtype: torch.dtype) -> Case:
    """Stable Diffusion XL, or a small one."""
    width, pooled = SDXL[size]["cross_attention_dim"], POOLED[size]
    more = {"projection_class_embeddings_input_dim": pooled + 6 * SDXL[size][TIME_WIDTH]}
    settings = {**SDXL_SHAPE, **SDXL[size], **more}
    absent = [f"{part}{end}" for end in ("", "_2") for part in ("text_encoder", "tokenizer")]
    pipe: Any = StableDiffusionXLPipeline(
        vae=_build_autoencoder(4),
        unet=_build_network(UNet2DConditionModel, settings, device, dtype),
        scheduler=DDIMScheduler(**SD_SCHEDULER),
        add_watermarker=False,
        **dict.fromkeys(absent),
    )
    cond, uncond = torch.randn((2, 1, 77, width), device=device, dtype=dtype)
    whole = torch.randn((1, pooled), device=device, dtype=dtype)
    texts = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
    texts |= {"pooled_prompt_embeds": whole, "negative_pooled_prompt_embeds": whole}
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
    "sdxl": build_sdxl,
    "sd35": build_sd35,
    "flux": build_flux,
}


def move_case(case: Case, device: torch.device, dtype: torch.dtype) -> Case:
    """A copy of a case, on another device."""
    call = {
        name: value.to(device, dtype) if isinstance(value, torch.Tensor) else value
        for name, value in case.call.items()
    }
    return replace(case, pipe=deepcopy(case.pipe).to(device, dtype), call=call)


def _build_network(
    build: Callable[..., Network],
    settings: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
) -> Network:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):  # drawn where and as they stay: the full sizes have billions
            network = build(**settings)
    finally:
        torch.set_default_dtype(before)
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
