"""PickScore against the logits that transformers' CLIPModel itself gives for one pair at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from asyndm.errors import UserError
from evaluation.metrics.pick_score import PickScore
from evaluation.runs.prompts import Prompt
from tests.conftest import make_tokenizer
from tests.evaluation.metrics.pictures import draw_noise

CLOSE = 1e-6
"""Largest difference from the second computation's, relative to the logit scale (7e-8 measured)."""
TEXTS = ["a red dog", "a rabbit and a cat", "a cat", "dog " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, as transformers keeps one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pick")
    tokenizer = make_tokenizer()
    shared = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shared, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    model = CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config={**shared, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    )
    torch.nn.init.constant_(model.logit_scale, 3.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(path)
    return path


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 64), (48, 32), (32, 40))


def test_scores_are_the_models_own_logits_of_one_pair_at_a_time(folder: Path) -> None:
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]
    found = [
        score.value
        for score in PickScore(str(folder), device="cpu").score(draw_pictures(), prompts)
    ]
    model, prepare = (
        CLIPModel.from_pretrained(folder).eval(),
        CLIPImageProcessor.from_pretrained(folder),
    )
    tokenizer = make_tokenizer()
    for value, image, text in zip(found, draw_pictures(), TEXTS, strict=True):
        ids = tokenizer(text)["input_ids"]
        ids = ids if len(ids) <= 77 else [*ids[:76], tokenizer.eos_token_id]
        with torch.no_grad():
            pixels = prepare(images=image, return_tensors="pt").pixel_values
            wanted = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits_per_image
        assert value == pytest.approx(float(wanted), abs=CLOSE * float(np.exp(3.0)))
    assert len({round(value or 0, 3) for value in found}) == 4


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metric pick_score: model=nobody/no-such-model: "):
        PickScore("nobody/no-such-model").check([], (64, 64))
    with pytest.raises(
        UserError, match="metric pick_score: model=.*: not a folder of transformers"
    ):
        PickScore(str(tmp_path)).check([], (64, 64))


def test_scores_rest_on_weights_and_settings_wherever_they_lie(
    folder: Path, tmp_path: Path
) -> None:
    asked = {"version": 1, "higher_is_better": True, "dtype": "float32", "processor": None}
    assert PickScore("m", "r", device="cpu").basis == {**asked, "model": "m@r"}
    shutil.copytree(folder, tmp_path / "moved")
    moved = PickScore(str(tmp_path / "moved")).basis
    assert PickScore(str(folder)).basis == moved
    (tmp_path / "moved" / "preprocessor_config.json").write_text("{}")
    assert PickScore(str(tmp_path / "moved")).basis != moved


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(folder: Path, dtype: str) -> None:
    prompts = [Prompt("p", "a red dog")]
    full, half = (
        PickScore(str(folder), dtype=d).score(draw_pictures()[:1], prompts)[0].value
        for d in ("auto", dtype)
    )
    assert (
        full is not None and half is not None and 0 < abs(full - half) < 0.02 * float(np.exp(3.0))
    )


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UserError, match="metric pick_score: dtype=fp8: choose from auto, float32"):
        PickScore("m", dtype="fp8")


def test_the_network_is_loaded_once_and_let_go(folder: Path) -> None:
    metric = PickScore(str(folder))
    first = metric.loaded
    metric.score(draw_pictures()[:1], [Prompt("p", "a cat")])
    assert metric.loaded is first
    metric.release()
    assert metric.loaded is not first


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "lacking")
    file = tmp_path / "lacking" / "model.safetensors"
    state = {
        name: value for name, value in load_file(file).items() if "visual_projection" not in name
    }
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacking: no weights for visual_projection.weight"):
        PickScore(str(tmp_path / "lacking")).load()


def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(UserError, match="metric pick_score: device=gpu: "):
        PickScore(str(folder), device="gpu").check([], (64, 64))
