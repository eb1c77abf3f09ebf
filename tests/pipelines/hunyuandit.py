"""Tiny Hunyuan-DiT: BERT's 77 and T5's 256 tokens one after the other in true cross-attention."""

from __future__ import annotations

import string

import torch
from diffusers import DDIMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from transformers import BertConfig, BertModel, BertTokenizer

from tests.pipelines.shared import WORDS, Tiny, finish, make_autoencoder, make_t5, make_t5_tokenizer


def make_bert_tokenizer() -> BertTokenizer:
    """Words of WORDS are one token, others are spelled."""
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *letters]
    pieces += [*("##" + letter for letter in letters), *WORDS]
    return BertTokenizer(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    )


def make_bert(tokenizer: BertTokenizer, width: int = 24) -> BertModel:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return BertModel(config)


def make_hunyuandit(seed: int = 0) -> HunyuanDiTPipeline:
    torch.manual_seed(seed)
    first, second = make_bert_tokenizer(), make_t5_tokenizer()
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=16,
        hidden_size=32,
        num_layers=4,
        mlp_ratio=4.0,
        learn_sigma=True,
        cross_attention_dim=24,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        activation_fn="gelu-approximate",
    )
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.018,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    pipe = HunyuanDiTPipeline(
        vae=make_autoencoder(),
        text_encoder=make_bert(first),
        tokenizer=first,
        transformer=transformer,
        scheduler=DDIMScheduler(
            **noise, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=make_t5(second),
        tokenizer_2=second,
    )
    return finish(pipe, seed)


HUNYUANDIT = {"hunyuandit": Tiny(make_hunyuandit, {"use_resolution_binning": False})}
