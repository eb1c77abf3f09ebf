"""Variants of the tiny Stable Diffusion of ``conftest``: image to image, inpainting, ControlNet,
PAG."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)

from tests.conftest import make_pipeline, make_unet
from tests.pipelines.shared import Tiny, draw_picture, draw_right_half, finish

GRID = (16, 24)
SIZE = (32, 48)  # the autoencoder of conftest has factor 2


def make_parts(seed: int = 0, **unet: Any) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    pipe = make_pipeline(seed)
    return {**pipe.components, "unet": make_unet(seed, **unet), "requires_safety_checker": False}


def make_sd(seed: int = 0) -> StableDiffusionPipeline:
    return finish(StableDiffusionPipeline(**make_parts(seed)), seed)


def make_sd_img2img(seed: int = 0) -> StableDiffusionImg2ImgPipeline:
    return finish(StableDiffusionImg2ImgPipeline(**make_parts(seed)), seed)


def make_sd_inpaint(seed: int = 0) -> StableDiffusionInpaintPipeline:
    """Four channels: the known half is put back after every step."""
    return finish(StableDiffusionInpaintPipeline(**make_parts(seed)), seed)


def make_sd_inpaint_nine(seed: int = 0) -> StableDiffusionInpaintPipeline:
    """Nine channels: the network is shown the mask and the masked picture."""
    return finish(StableDiffusionInpaintPipeline(**make_parts(seed, in_channels=9)), seed)


def make_sd_controlnet(seed: int = 0) -> StableDiffusionControlNetPipeline:
    pieces = make_parts(seed)
    controlnet = ControlNetModel.from_unet(
        pieces["unet"], conditioning_embedding_out_channels=(8, 8)
    )
    return finish(StableDiffusionControlNetPipeline(**pieces, controlnet=controlnet), seed)


def make_sd_pag(seed: int = 0) -> StableDiffusionPAGPipeline:
    return finish(StableDiffusionPAGPipeline(**make_parts(seed), pag_applied_layers="mid"), seed)


IMAGE = {"image": draw_picture(*SIZE)}
INPAINT = {**IMAGE, "mask_image": draw_right_half(*SIZE), "strength": 0.99}
SD = {
    "sd": Tiny(make_sd, {}, GRID, SIZE),
    "sd_img2img": Tiny(make_sd_img2img, {**IMAGE, "strength": 0.8}, GRID, SIZE, sized=False),
    "sd_inpaint": Tiny(make_sd_inpaint, INPAINT, GRID, SIZE),
    "sd_inpaint_nine": Tiny(make_sd_inpaint_nine, INPAINT, GRID, SIZE),
    "sd_controlnet": Tiny(make_sd_controlnet, IMAGE, GRID, SIZE),
    "sd_pag": Tiny(make_sd_pag, {"pag_scale": 3.0}, GRID, SIZE),
}
