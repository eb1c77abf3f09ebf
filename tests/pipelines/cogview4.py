"""Tiny CogView4: GLM reads the prompt, padded on the left to a multiple of 16."""

from __future__ import annotations

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from tokenizers import processors
from transformers import GlmConfig, GlmModel, PreTrainedTokenizerFast

from tests.pipelines.shared import WORDS, Tiny, finish, make_autoencoder, make_bytes_tokenizer

SPECIAL = ("<|endoftext|>", "[gMASK]", "<sop>")


def make_glm_tokenizer() -> PreTrainedTokenizerFast:
    """Two tokens begin every text; a word of WORDS is one token."""
    tokenizer = make_bytes_tokenizer(WORDS, SPECIAL)
    special = [(piece, tokenizer.token_to_id(piece)) for piece in SPECIAL[1:]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        padding_side="left",
    )


def make_glm(tokenizer: PreTrainedTokenizerFast, width: int = 32) -> GlmModel:
    config = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GlmModel(config)


def make_cogview4(seed: int = 0) -> CogView4Pipeline:
    torch.manual_seed(seed)
    tokenizer = make_glm_tokenizer()
    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=24,
        condition_dim=8,
        pos_embed_max_size=64,
        sample_size=16,
    )
    pipe = CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=make_glm(tokenizer),
        vae=make_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True
        ),
    )
    return finish(pipe, seed)


COGVIEW4 = {"cogview4": Tiny(make_cogview4)}
