"""Tiny SDXL: text to image, image to image, inpainting, ControlNet, PAG and the refiner."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from asyndm.shapes.model import SD_SCHEDULER
from tests.conftest import make_tokenizer
from tests.pipelines.shared import (
    Tiny,
    draw_picture,
    draw_right_half,
    finish,
    make_autoencoder,
    make_clip,
    make_second_tokenizer,
)

POOLED = 20


def make_unet(text: int = 32, ids: int = 6, **changes: Any) -> UNet2DConditionModel:
    """Attention at factors 2 and 4 of its latents, as SDXL's own."""
    config: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": text,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * ids + POOLED,
    }
    return UNet2DConditionModel(**{**config, **changes})


def make_parts(seed: int = 0, **unet: Any) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    first, second = make_tokenizer(), make_second_tokenizer()
    return {
        "vae": make_autoencoder(),
        "text_encoder": make_clip(first),
        "text_encoder_2": make_clip(second, projection=POOLED),
        "tokenizer": first,
        "tokenizer_2": second,
        "unet": make_unet(**unet),
        "scheduler": DDIMScheduler(**SD_SCHEDULER),
        "add_watermarker": False,
    }


def make_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    return finish(StableDiffusionXLPipeline(**make_parts(seed)), seed)


def make_sdxl_img2img(seed: int = 0) -> StableDiffusionXLImg2ImgPipeline:
    return finish(StableDiffusionXLImg2ImgPipeline(**make_parts(seed)), seed)


def make_sdxl_inpaint(seed: int = 0) -> StableDiffusionXLInpaintPipeline:
    """Four channels: the known half is put back after every step."""
    return finish(StableDiffusionXLInpaintPipeline(**make_parts(seed)), seed)


def make_sdxl_inpaint_nine(seed: int = 0) -> StableDiffusionXLInpaintPipeline:
    """Nine channels: the network is shown the mask and the masked picture."""
    return finish(StableDiffusionXLInpaintPipeline(**make_parts(seed, in_channels=9)), seed)


def make_sdxl_controlnet(seed: int = 0) -> StableDiffusionXLControlNetPipeline:
    pieces = make_parts(seed)
    controlnet = ControlNetModel.from_unet(
        pieces["unet"], conditioning_embedding_out_channels=(8, 8, 8, 8)
    )
    return finish(StableDiffusionXLControlNetPipeline(**pieces, controlnet=controlnet), seed)


def make_sdxl_pag(seed: int = 0) -> StableDiffusionXLPAGPipeline:
    return finish(StableDiffusionXLPAGPipeline(**make_parts(seed), pag_applied_layers="mid"), seed)


def make_sdxl_refiner(seed: int = 0) -> StableDiffusionXLImg2ImgPipeline:
    """The second tokenizer and encoder alone, and an aesthetic score; takes latents of
    ``make_sdxl`` as its image."""
    pieces = {**make_parts(seed, text=16, ids=5), "text_encoder": None, "tokenizer": None}
    return finish(
        StableDiffusionXLImg2ImgPipeline(**pieces, requires_aesthetics_score=True), seed + 1
    )


IMG2IMG = {"image": draw_picture(), "strength": 0.8}
INPAINT = {"image": draw_picture(), "mask_image": draw_right_half(), "strength": 0.99}
SDXL = {
    "sdxl": Tiny(make_sdxl, grid=(16, 24)),
    "sdxl_img2img": Tiny(make_sdxl_img2img, IMG2IMG, grid=(16, 24), sized=False),
    "sdxl_inpaint": Tiny(make_sdxl_inpaint, INPAINT, grid=(16, 24)),
    "sdxl_inpaint_nine": Tiny(make_sdxl_inpaint_nine, INPAINT, grid=(16, 24)),
    "sdxl_controlnet": Tiny(make_sdxl_controlnet, {"image": draw_picture()}, grid=(16, 24)),
    "sdxl_pag": Tiny(make_sdxl_pag, {"pag_scale": 3.0}, grid=(16, 24)),
    "sdxl_refiner": Tiny(make_sdxl_refiner, IMG2IMG, grid=(16, 24), sized=False),
}
