"""Tiny Qwen-Image: a chat model for text encoder, whose template is 34 tokens long before the
prompt."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tests.pipelines.shared import WORDS, Tiny, draw_picture, finish, list_byte_pairs

# The words of the real one, one token each there too.
TEMPLATE = (
    *("system", "user", "assistant", "Describe", "the", "image", "by", "detailing", "color"),
    *("shape", "size", "texture", "quantity", "text", "spatial", "relationships", "of"),
    *("objects", "and", "background"),
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CALL = {"negative_prompt": " ", "true_cfg_scale": 4.0}


def make_qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes for pieces; a word of the template or of WORDS is one token."""
    vocabulary, merges = list_byte_pairs((*TEMPLATE, *WORDS), SPECIAL)
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, additional_special_tokens=list(SPECIAL[1:])
    )


def make_qwen_encoder(
    tokenizer: Qwen2Tokenizer, width: int = 16
) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [1, 1, 2],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": width,
        "intermediate_size": width,
        "num_heads": 2,
        "out_hidden_size": width,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def make_parts(seed: int = 0) -> dict[str, Any]:
    """All that a pipeline's constructor asks for."""
    torch.manual_seed(seed)
    tokenizer = make_qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 1.5, 2.0, 1.2],
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            shift=1.0, use_dynamic_shifting=True, shift_terminal=0.02
        ),
        "vae": autoencoder,
        "text_encoder": make_qwen_encoder(tokenizer),
        "tokenizer": tokenizer,
        "transformer": transformer,
    }


def make_qwen(seed: int = 0) -> QwenImagePipeline:
    return finish(QwenImagePipeline(**make_parts(seed)), seed)


def make_qwen_img2img(seed: int = 0) -> QwenImageImg2ImgPipeline:
    return finish(QwenImageImg2ImgPipeline(**make_parts(seed)), seed)


QWEN = {
    "qwen": Tiny(make_qwen, CALL),
    "qwen_img2img": Tiny(make_qwen_img2img, {**CALL, "image": draw_picture(), "strength": 0.8}),
}
