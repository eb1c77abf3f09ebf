"""What the tiny pipelines share: random weights that matter, text encoders, an autoencoder, a
picture to start from."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from asyndm.protocols import Pipeline
from tests.conftest import make_tokenizer

HEIGHT, WIDTH = 128, 192  # 16x24 latents of the factor-8 autoencoder
# one token each in every tokenizer here but CLIP's
WORDS = ("a", "and", "on", "the", "in", "dog", "cat", "red", "blue", "house")
# factors that keep time, text and place all plainly heard
LOUDER = {"time_emb_proj": 2.0, "conv2": 4.0, "attn2.to_out": 4.0, "add_v_proj": 2.0}
LOUDER |= {".img_mod": 0.3, ".txt_mod": 0.3, "norm.linear": 0.3, "norm1.linear": 0.3}
LOUDER |= {"norm1_context.linear": 0.3, "norm_out.linear": 0.3, "time_embed.linear": 0.3}
PROMPT = "a red dog and a rabbit on the carpet"

Stock = TypeVar("Stock")
Module = TypeVar("Module", bound=nn.Module)
Merges: TypeAlias = list[Any]
"""Pairs of pieces, which transformers declares as texts."""


@dataclass(frozen=True)
class Tiny:
    """A builder, what its pipeline's call wants besides the prompt, the picture's size and the
    network's token grid."""

    build: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] = (8, 12)
    size: tuple[int, int] = (HEIGHT, WIDTH)
    sized: bool = True  # whether the call takes height and width

    def run(
        self,
        pipe: Pipeline,
        prompt: str | list[str] = PROMPT,
        seed: int = 0,
        **changes: Any,
    ) -> Any:
        """Pictures of five steps; ``changes`` go over the arguments."""
        torch.manual_seed(seed)  # SD3's ControlNet pipeline draws from it, whatever its generator
        size = {"height": self.size[0], "width": self.size[1]} if self.sized else {}
        call = {
            "num_inference_steps": 5,
            "generator": torch.Generator().manual_seed(seed),
            **size,
            **self.arguments,
        }
        return pipe(prompt=prompt, **{**call, **changes}).images


@torch.no_grad()
def randomise(net: Module, seed: int = 0, louder: Mapping[str, float] = LOUDER) -> Module:
    """Weights with some gain everywhere, zero-initialised layers and gates among them: nothing is
    idle."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if len(parameter) == parameter.numel():  # a norm's or a bias
            parameter.add_(0.2 * noise)
            continue
        positions = parameter.ndim == 3  # learnt ones
        inputs = parameter.shape[-1] if positions else parameter[0].numel()
        gain = 1.5 * math.prod(factor for part, factor in louder.items() if part in name)
        parameter.copy_(noise * gain / inputs**0.5)
    return net.eval().requires_grad_(False)


def finish(pipe: Stock, seed: int = 0, louder: Mapping[str, float] = LOUDER) -> Stock:
    """Randomised networks, each with a seed of its own, and no progress bar."""
    whole: Any = pipe
    networks = [part for part in whole.components.values() if isinstance(part, nn.Module)]
    for number, network in enumerate(networks):
        randomise(network, 100 * seed + number, louder)
    whole.set_progress_bar_config(disable=True)
    return pipe


def draw_picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image.Image:
    """Coarse coloured noise."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height))


def draw_right_half(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """An inpainting mask."""
    return Image.fromarray(
        np.where(np.arange(width) < width // 2, 0, 255).astype(np.uint8)[None].repeat(height, 0)
    )


def make_autoencoder(channels: int = 4, **changes: Any) -> AutoencoderKL:
    """Factor 8."""
    config = {
        "block_out_channels": (8,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": channels,
        "norm_num_groups": 4,
        "scaling_factor": 0.5,
        "force_upcast": False,  # asked for, it makes pipelines warn at every call
    }
    return AutoencoderKL(**{**config, **changes})


def make_clip(
    tokenizer: CLIPTokenizer, projection: int | None = None, width: int = 16
) -> nn.Module:
    """Its text encoder; with a projection where its size is given."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def make_second_tokenizer() -> CLIPTokenizer:
    """As the second encoders of SDXL and SD3 have it: padding is not the end token, but a character
    of its own."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "#"
    return tokenizer


def list_merges(words: Iterable[str]) -> Merges:
    """Rules of a byte-pair tokenizer that spell each word from its left: what no earlier word
    breaks is one token."""
    return list(
        dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    )


def list_byte_pairs(
    words: Iterable[str], special: Iterable[str] = ()
) -> tuple[dict[str, int], Merges]:
    """Vocabulary and rules over bytes: each word is one token, with a space before it and
    without."""
    known = dict.fromkeys(words)
    merges = list_merges([*("Ġ" + word for word in known), *known])
    pieces = ["Ġ", "Ċ", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces += [*("".join(pair) for pair in merges), *special]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges


def make_bytes_tokenizer(words: Iterable[str], special: Iterable[str]) -> Tokenizer:
    """To be wrapped, with ``special`` for its last pieces."""
    vocabulary, merges = list_byte_pairs(words, special)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_t5_tokenizer() -> T5Tokenizer:
    """Pieces as sentencepiece has them: 'dog' is one, 'carpet' two, 'rabbit' three with its lone
    space."""
    pieces = ["<pad>", "</s>", "<unk>"]
    scores = dict.fromkeys(pieces, 0.0)
    scores |= {
        "▁": -2.0,
        **{"▁" + word: -2.0 for word in (*WORDS, "car")},
        "pet": -3.0,
        "rab": -3.0,
        "bit": -3.0,
    }
    scores |= dict.fromkeys(string.ascii_letters + string.digits + string.punctuation, -6.0)
    return T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=512)


def make_t5(tokenizer: T5Tokenizer, width: int = 32) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)
