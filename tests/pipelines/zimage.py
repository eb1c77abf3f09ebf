"""Tiny Z-Image: Qwen3 reads the prompt in its chat template; the network is told 1 - t, and image
stands before text."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from tests.pipelines.qwen import make_qwen_tokenizer
from tests.pipelines.shared import Tiny, finish, make_autoencoder

CHAT = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_qwen3_config(tokenizer: Qwen2Tokenizer, width: int = 16, layers: int = 2) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )


def make_zimage(seed: int = 0) -> ZImagePipeline:
    torch.manual_seed(seed)
    tokenizer = make_qwen_tokenizer()
    tokenizer.chat_template = CHAT
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_autoencoder(shift_factor=0.1),
        text_encoder=Qwen3Model(make_qwen3_config(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return finish(pipe, seed)


ZIMAGE = {"zimage": Tiny(make_zimage, {"max_sequence_length": 64})}
