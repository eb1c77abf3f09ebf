"""The embedded checkpoints: what is shipped is what the card says, loads with stock diffusers, and
draws."""

from __future__ import annotations

import hashlib

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import asyndm
from asyndm.shapes.checker import check
from asyndm.shapes.model import (
    CHECKPOINTS,
    LENGTH,
    WEIGHTS,
    build_pipeline,
    build_tokenizer,
    load_pipeline,
)
from asyndm.shapes.world import KINDS, SPLITS, WORDS, prompts


def test_every_word_is_one_token_and_every_prompt_fits() -> None:
    tokenizer = build_tokenizer()
    assert [word for word in WORDS if len(tokenizer(word).input_ids) != 3] == []
    texts = [spec.text for split in SPLITS for kind in KINDS for spec in prompts(split, kind)]
    assert max(map(len, tokenizer(texts).input_ids)) <= LENGTH


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_loads_with_stock_diffusers(name: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / name, safety_checker=None)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert {k: v.shape for k, v in pipe.unet.state_dict().items()} == {
        k: v.shape for k, v in build_pipeline().unet.state_dict().items()
    }


def test_weights_are_those_of_the_card_and_small() -> None:
    card = (WEIGHTS / "README.md").read_text()
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    assert len(files) == 3 * len(CHECKPOINTS)
    for file in files:
        assert f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`" in card, file
    assert sum(file.stat().st_size for file in files) <= 13_000_000


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_draws_single_objects_rightly(name: str) -> None:
    specs = [spec for spec in prompts("test", "one") for _ in range(6)]
    images = asyndm.sample(
        load_pipeline(name),
        [spec.text for spec in specs],
        mask=asyndm.NoMask(),
        num_inference_steps=20,
        eta=0.0,
        seed=0,
        batch_invariant=False,
        output_type="pt",
    )
    assert isinstance(images, torch.Tensor)
    assert sum(verdict.correct for verdict in check(images, specs)) >= 0.7 * len(specs)


def test_unknown_checkpoint_names_the_choices() -> None:
    with pytest.raises(asyndm.UserError, match="shapes_mixed"):
        load_pipeline("squares")
