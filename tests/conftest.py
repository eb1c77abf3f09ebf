"""A complete, tiny Stable Diffusion pipeline with random weights, built in a second."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# tests run side by side, and small networks gain nothing from threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import settings
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from asyndm.shapes.model import SD_SCHEDULER

# The first backward starts autograd's threads, one for each device there is. Were a GPU feigned by
# then, no copy of this process could go backward.
torch.autograd.backward(torch.zeros((), requires_grad=True))

gc.disable()  # until all is imported, which makes a million objects and no garbage
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LONG = (
    *("docs", "experiments/engine/test_workers.py", "experiments/test_faults.py"),
    *("library/networks", "library/guidance", "experiments", "parity"),
    *("library/test_sampler.py", "library/test_compiled.py"),
)
"""Files and folders that take longest. They are begun first, so that all cores end together, and
left out by ``--fast``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=None,
        help="folder of reference numbers for tests/parity (default: the subset that ships with "
        "the tests)",
    )
    parser.addoption("--fast", action="store_true", help="without what takes longest")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--fast") and _find_rank(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: -_find_rank(item.path))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # each search through all objects takes a second
    gc.enable()


def _find_rank(path: Path) -> int:
    """The higher the longer it takes; 0 for what does not take long."""
    long = [Path(__file__).parent / name for name in LONG]
    ranks = (len(long) - i for i, each in enumerate(long) if path.is_relative_to(each))
    return next(ranks, 0)


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with letters for pieces and three whole words; 'rabbit' is six tokens, 'dog'
    one."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.'-#"
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[Any] = [  # pairs, which transformers declares as texts
        *(("d", "o"), ("do", "g</w>")),
        *(("c", "a"), ("ca", "t</w>")),
        *(("r", "e"), ("re", "d</w>")),
    ]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def make_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """Attention at factors 2 and 4 of 16x16 latents."""
    config: dict[str, Any] = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    torch.manual_seed(seed)
    return UNet2DConditionModel(**{**config, **changes}).eval()


def make_pipeline(seed: int = 0, **scheduler: Any) -> StableDiffusionPipeline:
    """A random UNet, text encoder and autoencoder (factor 2) that fit each other; pictures of 32x32
    pixels."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    pipe = StableDiffusionPipeline(
        vae=autoencoder.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=make_unet(seed),
        scheduler=DDIMScheduler(**{**SD_SCHEDULER, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe() -> StableDiffusionPipeline:
    """Shared: ``asyndm`` promises to leave it untouched."""
    return make_pipeline()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return make_unet()
