"""Tiny FLUX.1: dev and schnell, image to image, inpainting, fill and ControlNet."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from tests.conftest import make_tokenizer
from tests.pipelines.shared import (
    Tiny,
    draw_picture,
    draw_right_half,
    finish,
    make_autoencoder,
    make_clip,
    make_t5,
    make_t5_tokenizer,
)

TEXT = {"max_sequence_length": 24}
DEV = {"shift": 3.0, "use_dynamic_shifting": True}
SCHNELL = {"shift": 1.0, "use_dynamic_shifting": False}
TRANSFORMER: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,  # 2x2 cells of 4 latent channels
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 16,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


def make_parts(
    seed: int = 0, scheduler: dict[str, Any] = DEV, **transformer: Any
) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    first, second = make_tokenizer(), make_t5_tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**scheduler),
        "vae": make_autoencoder(shift_factor=0.1),
        "text_encoder": make_clip(first),
        "tokenizer": first,
        "text_encoder_2": make_t5(second),
        "tokenizer_2": second,
        "transformer": FluxTransformer2DModel(**{**TRANSFORMER, **transformer}),
    }


def make_flux(seed: int = 0) -> FluxPipeline:
    """As dev: the guidance scale is told to the network, the shift depends on the picture's
    size."""
    return finish(FluxPipeline(**make_parts(seed)), seed)


def make_flux_schnell(seed: int = 0) -> FluxPipeline:
    return finish(FluxPipeline(**make_parts(seed, SCHNELL, guidance_embeds=False)), seed)


def make_flux_img2img(seed: int = 0) -> FluxImg2ImgPipeline:
    return finish(FluxImg2ImgPipeline(**make_parts(seed)), seed)


def make_flux_inpaint(seed: int = 0) -> FluxInpaintPipeline:
    """The known half is put back after every step."""
    return finish(FluxInpaintPipeline(**make_parts(seed)), seed)


def make_flux_fill(seed: int = 0) -> FluxFillPipeline:
    """The network is shown the masked picture and, for each token, its 16x16 pixels of the mask."""
    return finish(
        FluxFillPipeline(**make_parts(seed, in_channels=16 + 16 + 256, out_channels=16)), seed
    )


def make_flux_controlnet(seed: int = 0) -> FluxControlNetPipeline:
    pieces = make_parts(seed)
    controlnet = FluxControlNetModel(**{**TRANSFORMER, "num_layers": 1, "num_single_layers": 1})
    return finish(FluxControlNetPipeline(**pieces, controlnet=controlnet), seed)


FLUX = {
    "flux": Tiny(make_flux, TEXT),
    "flux_schnell": Tiny(make_flux_schnell, {**TEXT, "guidance_scale": 0.0}),
    "flux_img2img": Tiny(make_flux_img2img, {**TEXT, "image": draw_picture(), "strength": 0.8}),
    "flux_inpaint": Tiny(
        make_flux_inpaint,
        {**TEXT, "image": draw_picture(), "mask_image": draw_right_half(), "strength": 0.99},
    ),
    "flux_fill": Tiny(
        make_flux_fill, {**TEXT, "image": draw_picture(), "mask_image": draw_right_half()}
    ),
    "flux_controlnet": Tiny(make_flux_controlnet, {**TEXT, "control_image": draw_picture()}),
}
