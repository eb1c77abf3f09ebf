"""HPS v2.1 against transformers' CLIPModel with the same weights, and pictures padded by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from asyndm.errors import UserError
from evaluation.metrics.hps import HPS
from evaluation.networks.weights import hash_files
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import draw_noise
from tests.evaluation.metrics.small_clip import CONFIG, NORMAL, make_twin
from tests.lab import Lab

CLOSE = 2e-6
"""Largest difference of a cosine from the second computation's (1.2e-7 measured)."""
NAME = "tiny-preference"
TEXTS = [
    "a red circle",
    "a dog and a cat",
    "a " + "very " * 100 + "long caption",
    "ünïcode, 3 stars!",
]
LENGTH, BEGIN, END = 20, 49406, 49407
SIZE = 32


@dataclass(frozen=True)
class Model:
    """The same weights as the original authors keep them, and as open_clip does."""

    file: Path
    folder: Path
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small architecture that open_clip knows by name, with weights in the original layout."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hps")
    (root / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(root / f"{NAME}.json")
    weights = open_clip.CLIP(**CONFIG).state_dict()
    torch.save({"state_dict": weights}, root / "HPS_v2.1_compressed.pt")
    folder = root / "folder"
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    content = {"model_cfg": CONFIG, "preprocess_cfg": NORMAL}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return Model(root / "HPS_v2.1_compressed.pt", folder, weights)


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 64), (48, 20), (37, 101))


def make_prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]


def make_metric(model: Model, **settings: Any) -> HPS:
    return HPS(NAME, pretrained=str(model.file), device="cpu", **settings)


def score_values(model: Model, **settings: Any) -> Tensor:
    return torch.tensor(
        [
            score.value
            for score in make_metric(model, **settings).score(draw_pictures(), make_prompts())
        ]
    )


def pad(image: Image.Image) -> Tensor:
    """The longest side resized, black around, normalised."""
    longest = max(image.size)
    width, height = (round(side * SIZE / longest) for side in image.size)
    canvas = Image.new("RGB", (SIZE, SIZE))
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(whole, ((SIZE - width) // 2, (SIZE - height) // 2))
    normal = (np.asarray(canvas) / 255 - NORMAL["mean"]) / NORMAL["std"]
    return torch.tensor(normal.transpose(2, 0, 1), dtype=torch.float32)


def compute_expected(model: Model) -> Tensor:
    """The cosines, one pair at a time."""
    network, found = make_twin(model.folder), []
    encode = open_clip.SimpleTokenizer().encode
    for image, text in zip(draw_pictures(), TEXTS, strict=True):
        ids = [BEGIN, *encode(text)[: LENGTH - 2], END]
        with torch.no_grad():
            seen = network.get_image_features(pad(image)[None]).pooler_output[0]
            read = network.get_text_features(torch.tensor([ids])).pooler_output[0]
        found.append(seen @ read / (seen.norm() * read.norm()))
    return torch.stack(found)


def test_scores_are_cosines_of_transformers_clip_with_the_same_weights(model: Model) -> None:
    wanted = compute_expected(model)
    assert (score_values(model) - wanted).abs().max() < CLOSE
    assert wanted.max() - wanted.min() > 0.05


def test_pictures_are_seen_whole(model: Model) -> None:
    _, prepare, _ = make_metric(model).loaded.loaded
    for image in draw_pictures():
        assert torch.allclose(prepare(image), pad(image), atol=1e-6)
    wide = Image.new("RGB", (3 * SIZE, SIZE), "white")
    edge = wide.copy()
    edge.paste("red", (0, 0, SIZE, SIZE))
    first, second = make_metric(model).score([wide, edge], [make_prompts()[0]] * 2)
    assert first.value != pytest.approx(second.value, abs=100 * CLOSE)


def test_a_score_does_not_depend_on_its_company(model: Model) -> None:
    alone = [
        make_metric(model).score([i], [p])[0].value
        for i, p in zip(draw_pictures(), make_prompts(), strict=True)
    ]
    assert (score_values(model) - torch.tensor(alone)).abs().max() < CLOSE


def test_a_long_prompt_is_cut(model: Model) -> None:
    image, longer = (
        draw_pictures()[2:3],
        Prompt("p", TEXTS[2] + " with more words that are not read"),
    )
    assert make_metric(model).score(image, [longer]) == make_metric(model).score(
        image, [make_prompts()[2]]
    )


def test_half_precision_is_near(model: Model) -> None:
    difference = (score_values(model) - score_values(model, dtype="bfloat16")).abs().max()
    assert 0 < difference < 0.05


def test_what_is_not_there_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="metric hps_v21: model=Vit: open_clip knows no model of that name"
    ):
        HPS("Vit", pretrained=str(model.file)).check([], (64, 64))
    with pytest.raises(
        UserError, match="metric hps_v21: pretrained=.*none.pt: neither HPS_v2.1_compressed.pt"
    ):
        HPS("ViT-H-14", pretrained=str(tmp_path / "none.pt")).check([], (64, 64))
    with pytest.raises(
        UserError, match="pretrained=nobody/none: HPS_.* is not in the local cache"
    ) as said:
        HPS("ViT-H-14", pretrained="nobody/none").check([], (64, 64))
    assert "\n" not in str(said.value)
    make_metric(model).check([], (64, 64))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"visual.proj": None}, "Missing key.*visual.proj"),
        ({"score_head": torch.zeros(2)}, "Unexpected key.*score_head"),
    ],
)
def test_a_file_of_other_weights_is_refused(
    model: Model, tmp_path: Path, change: dict[str, Tensor | None], said: str
) -> None:
    weights = {
        name: value for name, value in {**model.weights, **change}.items() if value is not None
    }
    torch.save({"state_dict": weights}, tmp_path / "other.pt")
    with pytest.raises(
        UserError, match=f"metric hps_v21: pretrained=.*other.pt: .*{said}"
    ) as error:
        HPS(NAME, pretrained=str(tmp_path / "other.pt"), device="cpu").load()
    assert "\n" not in str(error.value)


def test_scores_rest_on_the_weights(model: Model, tmp_path: Path) -> None:
    asked = {"version": 1, "higher_is_better": True, "dtype": "float32"}
    assert HPS("ViT-H-14").basis == {**asked, "model": "ViT-H-14", "pretrained": "xswu/HPSv2"}
    assert HPS("ViT-H-14", "r").basis != HPS("ViT-H-14").basis
    own = make_metric(model).basis
    assert own == {**asked, "model": NAME, "pretrained": hash_files(model.file)}
    torch.save({"state_dict": {}}, tmp_path / "HPS_v2.1_compressed.pt")
    assert HPS(NAME, pretrained=str(tmp_path / "HPS_v2.1_compressed.pt")).basis != own


def test_runs_are_scored(lab: Lab, model: Model) -> None:
    result = lab("metric=hps", f"metric.hps.model={NAME}", f"metric.hps.pretrained={model.file}")
    assert result.status == 0
    assert (lab.only_run() / "scores.csv").read_text().count("hps_v21") == 3
