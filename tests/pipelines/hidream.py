"""Tiny HiDream: T5 and Llama side by side after the image; Llama's layers each join a block of
their own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import make_tokenizer
from tests.pipelines.shared import (
    WORDS,
    Tiny,
    finish,
    make_autoencoder,
    make_bytes_tokenizer,
    make_clip,
    make_second_tokenizer,
    make_t5,
    make_t5_tokenizer,
)

SPECIAL = ("<|end_of_text|>", "<|begin_of_text|>")


def make_llama_tokenizer() -> PreTrainedTokenizerFast:
    """One token begins every text; a word of WORDS is one token."""
    tokenizer = make_bytes_tokenizer(WORDS, SPECIAL)
    begin = SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=SPECIAL[0], pad_token=SPECIAL[0]
    )


def make_llama(tokenizer: PreTrainedTokenizerFast, width: int = 16) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    config._attn_implementation = "eager"  # the pipeline asks for its attention
    return LlamaForCausalLM(config)


def make_hidream(seed: int = 0) -> HiDreamImagePipeline:
    torch.manual_seed(seed)
    first, second, third, fourth = (
        make_tokenizer(),
        make_second_tokenizer(),
        make_t5_tokenizer(),
        make_llama_tokenizer(),
    )
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[32, 16],
        text_emb_dim=32,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    pipe: Any = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_autoencoder(shift_factor=0.1),
        text_encoder=make_clip(first, projection=12),
        tokenizer=first,
        text_encoder_2=make_clip(second, projection=20),
        tokenizer_2=second,
        text_encoder_3=make_t5(third),
        tokenizer_3=third,
        text_encoder_4=make_llama(fourth),
        tokenizer_4=fourth,
        transformer=transformer,
    )
    pipe.default_sample_size = 20  # pictures are brought to about the area of its square
    return finish(pipe, seed)


HIDREAM = {"hidream": Tiny(make_hidream, {"max_sequence_length": 40})}
