"""Tiny SD3 and SD3.5: text to image, image to image, ControlNet, and without T5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)

from tests.conftest import make_tokenizer
from tests.pipelines.shared import (
    Tiny,
    draw_picture,
    finish,
    make_autoencoder,
    make_clip,
    make_second_tokenizer,
    make_t5,
    make_t5_tokenizer,
)

TEXT = {"max_sequence_length": 24}  # 77 + 24 text tokens beside 96 of the image
POOLED = (12, 20)
TRANSFORMER: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": sum(POOLED),
    "pos_embed_max_size": 24,
}


def make_parts(seed: int = 0, **transformer: Any) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    first, second, third = make_tokenizer(), make_second_tokenizer(), make_t5_tokenizer()
    return {
        "transformer": SD3Transformer2DModel(**{**TRANSFORMER, "num_layers": 3, **transformer}),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": make_autoencoder(shift_factor=0.1),
        "text_encoder": make_clip(first, projection=POOLED[0]),
        "tokenizer": first,
        "text_encoder_2": make_clip(second, projection=POOLED[1]),
        "tokenizer_2": second,
        "text_encoder_3": make_t5(third),
        "tokenizer_3": third,
    }


def make_sd3(seed: int = 0) -> StableDiffusion3Pipeline:
    return finish(StableDiffusion3Pipeline(**make_parts(seed)), seed)


def make_sd35(seed: int = 0) -> StableDiffusion3Pipeline:
    """As the medium model: the first block attends twice, queries and keys are normed."""
    return finish(
        StableDiffusion3Pipeline(
            **make_parts(seed, dual_attention_layers=(0,), qk_norm="rms_norm")
        ),
        seed,
    )


def make_sd3_clips(seed: int = 0) -> StableDiffusion3Pipeline:
    """Without T5: zeros in its place."""
    return finish(
        StableDiffusion3Pipeline(
            **{**make_parts(seed), "text_encoder_3": None, "tokenizer_3": None}
        ),
        seed,
    )


def make_sd3_img2img(seed: int = 0) -> StableDiffusion3Img2ImgPipeline:
    return finish(StableDiffusion3Img2ImgPipeline(**make_parts(seed)), seed)


def make_sd3_controlnet(seed: int = 0) -> StableDiffusion3ControlNetPipeline:
    pieces = make_parts(seed)
    controlnet = SD3ControlNetModel(**TRANSFORMER, num_layers=1)
    return finish(StableDiffusion3ControlNetPipeline(**pieces, controlnet=controlnet), seed)


SD3 = {
    "sd3": Tiny(make_sd3, TEXT),
    "sd35": Tiny(make_sd35, TEXT),
    "sd3_clips": Tiny(make_sd3_clips, TEXT),
    "sd3_img2img": Tiny(make_sd3_img2img, {**TEXT, "image": draw_picture(), "strength": 0.8}),
    "sd3_controlnet": Tiny(make_sd3_controlnet, {**TEXT, "control_image": draw_picture()}),
}
