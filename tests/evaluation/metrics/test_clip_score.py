"""CLIPScore against transformers' CLIPModel with the same weights, and against torchmetrics'
number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.multimodal import CLIPScore as TorchmetricsCLIPScore

from asyndm.errors import UserError
from evaluation.metrics.clip_score import CONVENTIONS, CLIPScore
from evaluation.networks.open_clip import name_architecture
from evaluation.networks.weights import hash_files
from evaluation.quality.features import Features
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import draw_noise
from tests.evaluation.metrics.small_clip import CONFIG, NORMAL, make_twin
from tests.lab import Lab

CLOSE = 2e-6
"""Largest difference of a cosine from the second computation's (2.4e-7 measured)."""
TEXTS = [
    "a red circle",
    "a dog and a cat",
    "a " + "very " * 100 + "long caption",
    "ünïcode, 3 stars!",
]


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 64), (48, 20), (32, 32))


def make_prompts(texts: list[str] = TEXTS) -> list[Prompt]:
    return [Prompt(f"p{i}", text) for i, text in enumerate(texts)]


def make_metric(clip: Path, convention: str = "compbench") -> CLIPScore:
    return CLIPScore(f"local-dir:{clip}", convention=convention, device="cpu")


def score_values(clip: Path, convention: str, texts: list[str] = TEXTS) -> Tensor:
    return torch.tensor(
        [s.value for s in make_metric(clip, convention).score(draw_pictures(), make_prompts(texts))]
    )


def compute_features(
    clip: Path, texts: list[str], activation: str = "gelu"
) -> tuple[Tensor, Tensor]:
    """Unit features by transformers, of pixels and tokens prepared by open_clip."""
    model = make_twin(clip, activation)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    tokens = open_clip.get_tokenizer(f"local-dir:{clip}")(texts)
    with torch.no_grad():
        seen = model.get_image_features(
            torch.stack([preprocess(image) for image in draw_pictures()])
        )
        read = model.get_text_features(tokens)
    return F.normalize(seen.pooler_output, dim=-1), F.normalize(read.pooler_output, dim=-1)


def test_the_cosine_is_that_of_transformers_clip_with_the_same_weights(clip: Path) -> None:
    seen, read = compute_features(clip, TEXTS)
    assert (score_values(clip, "compbench") - (seen * read).sum(-1)).abs().max() < CLOSE


def test_the_original_convention(clip: Path) -> None:
    seen, read = compute_features(clip, [f"A photo depicts {text}" for text in TEXTS])
    expected = 2.5 * (seen * read).sum(-1).clamp(min=0)
    assert (score_values(clip, "original") - expected).abs().max() < 2.5 * CLOSE


@pytest.fixture
def tagged(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, "tiny", that open_clip knows with either activation, and weights for it, by the tags
    "quick" (trained with QuickGELU) and "plain"."""
    weights = {"file": str(clip / "open_clip_model.safetensors"), **NORMAL}
    quick = {"quick": {**weights, "quick_gelu": True}}
    tags = {"tiny": {**quick, "plain": weights}, "tiny-quickgelu": quick}
    for name, more in (("tiny", {}), ("tiny-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(CONFIG | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags[name])


@pytest.mark.usefixtures("tagged")
@pytest.mark.fault(
    what="a CLIP named without `-quickgelu`, by the tag of weights that were trained with "
    "QuickGELU (ViT-B-32, openai)",
    kind="another network than the one named",
    now="scored with the activation of the weights, and recorded by the name that says so",
)
def test_the_activation_is_the_one_that_the_weights_were_trained_with(clip: Path) -> None:
    for name, tag, activation in (
        ("tiny", "quick", "quick_gelu"),
        ("tiny-quickgelu", "quick", "quick_gelu"),
        ("tiny", "plain", "gelu"),
    ):
        one = CLIPScore(name, pretrained=tag, convention="compbench", device="cpu")
        seen, read = compute_features(clip, TEXTS, activation)
        found = torch.tensor([score.value for score in one.score(draw_pictures(), make_prompts())])
        assert (found - (seen * read).sum(-1)).abs().max() < CLOSE
        assert one.basis["model"] == ("tiny" if activation == "gelu" else "tiny-quickgelu")
    assert Features("tiny:quick").name == "tiny-quickgelu:quick"


def test_all_weights_that_open_clip_names_get_their_activation() -> None:
    quick = [
        (m, t)
        for m, t in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(m, t).get("quick_gelu")
    ]
    assert ("ViT-B-32", "openai") in quick and ("ViT-H-14", "dfn5b") in quick
    assert all(
        open_clip.get_model_config(name_architecture(*pair)).get("quick_gelu") for pair in quick
    )


def test_torchmetrics_gives_the_same_under_its_convention(clip: Path) -> None:
    """With the two methods it asks of a model, and captions that it does not cut (it loses their
    end token)."""
    short = [text for text in TEXTS if len(text) < 40]
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    tokenizer, model = open_clip.get_tokenizer(f"local-dir:{clip}"), make_twin(clip)

    class Adapter(torch.nn.Module):
        config = model.config

        def get_image_features(self, pixels: Tensor) -> Any:
            return model.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: Tensor, attention_mask: Tensor) -> Any:
            return model.get_text_features(ids).pooler_output

    def processor(text: Any = None, images: Any = None, **_: Any) -> dict[str, Tensor]:
        if images is not None:
            seen = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
            return {"pixel_values": torch.stack([preprocess(image) for image in seen])}
        ids = tokenizer(text)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def adapt() -> Any:
        return Adapter(), processor

    theirs = TorchmetricsCLIPScore(adapt)
    ours = [
        s
        for s, text in zip(score_values(clip, "torchmetrics"), TEXTS, strict=True)
        if text in short
    ]
    shown = [image for image, text in zip(draw_pictures(), TEXTS, strict=True) if text in short]
    for value, image, text in zip(ours, shown, short, strict=True):
        theirs.reset()
        theirs.update(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), text)
        assert float(theirs.compute()) == pytest.approx(max(0.0, float(value)), abs=100 * CLOSE)


def test_a_long_prompt_keeps_its_end_token(clip: Path) -> None:
    tokens = open_clip.get_tokenizer(f"local-dir:{clip}")(TEXTS)
    assert (tokens == 49407).any(1).all() and int(tokens[2, -1]) == 49407
    longer = [*TEXTS[:2], TEXTS[2] + " with more words that are not read", *TEXTS[3:]]
    assert torch.equal(score_values(clip, "compbench", longer), score_values(clip, "compbench"))


def test_a_score_does_not_depend_on_its_company(clip: Path) -> None:
    together = score_values(clip, "compbench")
    alone = [
        make_metric(clip).score([i], [p])[0].value
        for i, p in zip(draw_pictures(), make_prompts(), strict=True)
    ]
    assert (together - torch.tensor(alone)).abs().max() < CLOSE


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_names_and_records_tell_conventions_apart(clip: Path, convention: str) -> None:
    one = make_metric(clip, convention)
    assert one.name == f"clip_{convention}" and one.basis["convention"] == convention
    assert one.basis["model"] == hash_files(clip)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="convention=mine: choose from authors, compbench"):
        CLIPScore("ViT-B-32", convention="mine")
    with pytest.raises(UserError, match="metric clip_original: revision=mine: open_clip has none"):
        CLIPScore("ViT-B-32", "mine")
    with pytest.raises(UserError, match="model=/nowhere: no open_clip_config.json there"):
        CLIPScore("/nowhere").check([], (64, 64))
    with pytest.raises(
        UserError, match="model=Vit: no such folder, and open_clip knows no model of that name"
    ):
        CLIPScore("Vit").check([], (64, 64))
    with pytest.raises(UserError, match="no open_clip_config.json there"):
        make_metric(tmp_path).check([], (64, 64))
    with pytest.raises(UserError, match="knows no weights 'mine' of the model 'ViT-B-32'"):
        CLIPScore("ViT-B-32", pretrained="mine").check([], (64, 64))
    with pytest.raises(UserError, match="are not in the local cache and cannot be fetched"):
        CLIPScore("hf-hub:nobody/no-such-model").check([], (64, 64))


def test_runs_are_scored_and_rescored_by_another_model(
    lab: Lab, clip: Path, tmp_path: Path
) -> None:
    choice = [f"metric.clip_compbench.model=local-dir:{clip}", "metric=clip_compbench"]
    assert lab(*choice).status == 0
    first = (lab.only_run() / "scores.csv").read_text()
    assert first.count("clip_compbench") == 3
    assert lab(*choice).out.count("found") == 1
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text((clip / "open_clip_config.json").read_text())
    assert (
        lab(f"metric.clip_compbench.model=local-dir:{tmp_path}", "metric=clip_compbench").status
        == 0
    )
    assert (lab.only_run() / "scores.csv").read_text() != first
