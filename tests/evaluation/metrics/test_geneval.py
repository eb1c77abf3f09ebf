"""The metric GenEval against detectors and CLIP run on one picture at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from asyndm.errors import UserError
from evaluation.metrics import Score
from evaluation.metrics.geneval import GenEval, crop
from evaluation.metrics.geneval_rules import (
    COLOURS,
    Box,
    find_relations,
)
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import draw_noise
from tests.evaluation.metrics.small_detectors import make_detector
from tests.evaluation.metrics.test_geneval_rules import ROW, write_rows
from tests.lab import Lab

CLOSE = 5e-6
"""Largest difference from the second computations (1e-6 measured for scores, 4e-7 for boxes as a
share of the picture, 8e-8 for cosines)."""
NAMES = ["person", "motorcycle", "mouse", "tv"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two detectors as transformers keep them, and a CLIP as open_clip does."""
    return make_detector(tmp_path_factory.mktemp("geneval"))


def make_metric(folders: dict[str, Path], kind: str = "yolos", **settings: Any) -> GenEval:
    clip = {"colour_model": str(folders["clip"]), "colour_pretrained": None}
    return GenEval(str(folders[kind]), device="cpu", **{**clip, **settings})


def draw_pictures() -> list[Image.Image]:
    return draw_noise((60, 40), (33, 50), (60, 40), (48, 32))


def detect_alone(folder: Path, kind: str, image: Image.Image) -> list[tuple[str, float, Box]]:
    """What the model of its own class finds in one picture, decoded by hand, the surest first."""
    model: Any
    transform: Any
    model, transform = {
        "yolos": (YolosForObjectDetection, YolosImageProcessor),
        "rtdetr": (RTDetrForObjectDetection, RTDetrImageProcessor),
    }[kind]
    with torch.no_grad():
        given = transform.from_pretrained(folder)(images=image, return_tensors="pt")
        out = model.from_pretrained(folder).eval()(**given)
    logits, boxes = out.logits[0].double().numpy(), out.pred_boxes[0].double().numpy()
    if kind == "yolos":
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        pairs = [(query, int(row[:-1].argmax())) for query, row in enumerate(shares)]
    else:
        shares = 1 / (1 + np.exp(-logits))
        ranked = sorted(np.ndindex(*shares.shape), key=lambda pair: -shares[pair])
        pairs = [(query, label) for query, label in ranked[: len(boxes)]]
    found = []
    for query, label in sorted(pairs, key=lambda pair: -shares[pair]):
        x, y, w, h = (boxes[query] * [*image.size, *image.size]).tolist()
        found.append(
            (
                NAMES[label],
                float(shares[query, label]),
                (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
            )
        )
    return found


@pytest.mark.parametrize("kind", ["yolos", "rtdetr"])
def test_detections_are_the_networks_own_of_one_picture_at_a_time(
    folders: dict[str, Path], kind: str
) -> None:
    found = make_metric(folders, kind, threshold=0.0).detect(draw_pictures())
    names = set()
    for own, image in zip(found, draw_pictures(), strict=True):
        assert own is not None
        wanted = detect_alone(folders[kind], kind, image)
        own = sorted(own, key=lambda one: -one.score)
        assert [one.name for one in own] == [name for name, _, _ in wanted] and len(own) == 12
        for one, (name, score, box) in zip(own, wanted, strict=True):
            names.add(name)
            assert one.score == pytest.approx(score, abs=CLOSE)
            assert one.box == pytest.approx(box, abs=CLOSE * max(image.size))
    assert len(names) > 1


def unit(values: Any) -> Any:
    wide = values.double().numpy()
    return wide / np.linalg.norm(wide)


def test_colours_are_those_of_one_crop_and_one_text_at_a_time(folders: dict[str, Path]) -> None:
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folders['clip']}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folders['clip']}")
    classes = ["bench", "dog", "bench", "cup"]
    said = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
    colours = make_metric(folders).colours
    crops = list(zip(classes, draw_pictures(), strict=True))
    cosines, named = colours.cosines(crops), colours.of(crops)
    for row, (name, image) in enumerate(crops):
        with torch.no_grad():
            shown = unit(clip.eval().encode_image(preprocess(image)[None])[0])
            read = [
                [clip.encode_text(tokenizer(text.format(c, name)))[0] for text in said]
                for c in COLOURS
            ]
        means = [sum(unit(one) for one in texts) for texts in read]
        wanted = [float(shown @ mean / np.linalg.norm(mean)) for mean in means]
        assert cosines[row].tolist() == pytest.approx(wanted, abs=CLOSE)
        assert named[row] == COLOURS[int(np.argmax(wanted))]
    assert len(set(named)) > 1


def test_a_crop_is_within_the_picture_and_never_empty() -> None:
    image = draw_noise((20, 10))[0]
    pixels = np.asarray(image)
    for box, part in {
        (2.4, 1.6, 7.6, 8.4): pixels[2:8, 2:8],
        (-5.0, -5.0, 30.0, 30.0): pixels,
        (4.2, 3.2, 4.3, 3.3): pixels[3:4, 4:5],
        (25.0, 12.0, 30.0, 14.0): pixels[9:, 19:],
        (-9.0, -9.0, -3.0, -3.0): pixels[:1, :1],
    }.items():
        assert np.array_equal(np.asarray(crop(image, box)), part)


def ask(folder: Path, tag: str, include: list[dict[str, Any]], **more: Any) -> tuple[str, Prompt]:
    row = {"tag": tag, "include": include, "prompt": "it", **more}
    return write_rows(folder, row), Prompt("it", "it")


@pytest.mark.parametrize("kind", ["yolos", "rtdetr"])
def test_pictures_are_counted(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Of the class that the detector sees most, at a threshold between its detections; the limit of
    the tag."""
    found = [detect_alone(folders[kind], kind, image) for image in draw_pictures()]
    name = max(NAMES, key=lambda name: sum(one[0] == name for own in found for one in own))
    limit = (
        float(np.median([score for own in found for one, score, _ in own if one == name])) + 1e-4
    )
    counts = [sum(one == name and score > limit for one, score, _ in own) for own in found]
    middle = sorted(counts)[1]
    thing, more = {"class": name, "count": middle}, {"class": name, "count": middle + 1}
    path, prompt = ask(tmp_path, "counting", [thing], exclude=[more])
    own = make_metric(folders, kind, metadata=path, threshold=1.0, counting_threshold=limit)
    assert middle > 0 and len(set(counts)) > 1
    scores = own.score(draw_pictures(), [prompt] * 4)
    assert [score.value for score in scores] == [float(count == middle) for count in counts]
    for score, count in zip(scores, counts, strict=True):
        few, many = (
            f"expected {name}>={middle}, found {count}",
            f"expected {name}<{middle + 1}, found {count}",
        )
        assert score.reason == ("" if count == middle else few if count < middle else many)
    most = make_metric(
        folders, kind, metadata=path, threshold=1.0, counting_threshold=limit, max_objects=middle
    )
    for score, count in zip(most.score(draw_pictures(), [prompt] * 4), counts, strict=True):
        assert score.value == float(count >= middle)


def test_pictures_are_judged_by_colour_and_place(folders: dict[str, Path], tmp_path: Path) -> None:
    image = draw_pictures()[0]
    surest: dict[str, Box] = {}
    for name, _, box in detect_alone(folders["yolos"], "yolos", image):
        surest.setdefault(name, box)
    (one, box), (other, target) = list(surest.items())[:2]
    [colour] = make_metric(folders).colours.of([(one, crop(image, box))])
    [place] = find_relations(box, target, 0.0)
    wrong, elsewhere = (
        COLOURS[COLOURS.index(colour) - 1],
        "left of" if place != "left of" else "right of",
    )

    def judge(colour: str, place: str, **settings: Any) -> Score:
        thing = {"class": one, "count": 1, "color": colour, "position": [place, 0]}
        path, prompt = ask(tmp_path, "position", [{"class": other, "count": 1}, thing])
        settings = {"threshold": 0.0, "position_threshold": 0.0, **settings}
        return make_metric(folders, metadata=path, **settings).score([image], [prompt])[0]

    assert judge(colour, place) == Score(1.0)
    assert judge(wrong, place) == Score(
        0.0, f"expected {wrong} {one}>=1, found 0 {wrong}; and 1 {colour}"
    )
    assert judge(colour, elsewhere) == Score(
        0.0, f"expected {one} {elsewhere} target, found {place} target"
    )
    far = f"expected {one} {place} target, found none of the four"
    assert judge(colour, place, position_threshold=1.0) == Score(0.0, far)


def test_prompts_without_metadata_have_no_value(folders: dict[str, Path], tmp_path: Path) -> None:
    path, prompt = ask(tmp_path, "single_object", [{"class": "person", "count": 1}])
    own, other = make_metric(folders, metadata=path, threshold=0.0), Prompt("o", "something else")
    first, second, third = own.score(draw_pictures()[:3], [other, prompt, other])
    assert first == third == Score(None, "no GenEval metadata for this prompt")
    assert second.value is not None


def test_a_model_that_gives_no_numbers_gives_no_value(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    image = draw_pictures()[0]
    thing = {
        "class": detect_alone(folders["yolos"], "yolos", image)[0][0],
        "count": 1,
        "color": "red",
    }
    path, prompt = ask(tmp_path, "colors", [thing])
    for spoilt in ("detector", "clip"):
        own = make_metric(folders, metadata=path, threshold=0.0)
        assert own.score([image], [prompt])[0].value is not None
        network: Any = own.loaded[0] if spoilt == "detector" else own.colours.clip.network
        for tensor in network.parameters():
            tensor.fill_(torch.nan)
        own.colours.texts.clear()
        assert own.score([image], [prompt]) == [Score(None, "the model gives no number")]


def test_what_cannot_be_scored_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    mouse, red = (
        {"class": "computer mouse", "count": 1},
        {"class": "tv", "count": 1, "color": "red"},
    )
    path, prompt = ask(tmp_path, "two_object", [mouse, red])
    make_metric(folders, metadata=path).check([Prompt("o", "other"), prompt], (64, 64))
    refused = {
        "metadata is missing: give metric.geneval.metadata=": make_metric(folders),
        "no such metadata file": make_metric(folders, metadata="nowhere.jsonl"),
        "model=/nowhere: no such file or folder": GenEval("/nowhere", metadata=path),
        "colour_model: model=Vit: no such folder": make_metric(
            folders, metadata=path, colour_model="Vit"
        ),
    }
    for message, own in refused.items():
        with pytest.raises(UserError, match=f"^metric geneval: .*{message}"):
            own.check([prompt], (64, 64))
    with pytest.raises(
        UserError, match="^metric geneval: metadata=.*: none of the prompts is there"
    ):
        make_metric(folders, metadata=path).check([Prompt("o", "other")], (64, 64))
    path, prompt = ask(tmp_path, "counting", [mouse], exclude=[{"class": "clock", "count": 2}])
    with pytest.raises(
        UserError, match="^metric geneval: model=.*yolos: the detector knows no 'clock'; "
    ):
        make_metric(folders, metadata=path).check([prompt], (64, 64))
    path, prompt = ask(tmp_path, "single_object", [mouse])
    make_metric(folders, metadata=path, colour_model="Vit").check([prompt], (64, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold must be a number in"),
        ({"counting_threshold": "high"}, "counting_threshold must be a number in"),
        ({"max_objects": 0}, "max_objects must be 1 or more, got 0"),
        ({"position_threshold": -0.1}, "position_threshold must be 0 or more, got -0.1"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^metric geneval: {message}"):
        GenEval("m", **settings)


def test_a_checkpoint_that_is_no_detector_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    state = load_file(folders["yolos"] / "model.safetensors")
    shutil.copytree(folders["yolos"], tmp_path / "less")
    part = {name: value for name, value in state.items() if "class_labels" not in name}
    save_file(part, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    shutil.copytree(folders["yolos"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    for name, message in {
        "less": "no weights for class_labels",
        "other": "Unrecognized configuration",
    }.items():
        with pytest.raises(UserError, match=f"^metric geneval: model=.*{name}: {message}"):
            _ = GenEval(str(tmp_path / name), device="cpu").loaded


def test_scores_rest_on_weights_settings_and_metadata(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    one = make_metric(folders, metadata=write_rows(tmp_path, ROW)).basis
    assert one["threshold"] == 0.3 and one["counting_threshold"] == 0.9 and one["max_objects"] == 16
    (tmp_path / "moved").mkdir()
    assert make_metric(folders, metadata=write_rows(tmp_path / "moved", ROW)).basis == one
    assert make_metric(folders, metadata=write_rows(tmp_path / "moved", ROW, ROW)).basis != one
    assert make_metric(folders, "rtdetr", metadata=write_rows(tmp_path, ROW)).basis != one


def test_half_precision_is_near(folders: dict[str, Path]) -> None:
    full, half = (
        make_metric(folders, threshold=0.0, dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    [one], [other] = full.detect(draw_pictures()[:1]), half.detect(draw_pictures()[:1])
    assert one is not None and other is not None
    far = [abs(a.score - b.score) for a, b in zip(one, other, strict=True)]
    assert 0 < max(far) < 0.1
    crops = [("dog", image) for image in draw_pictures()]
    assert 0 < float((full.colours.cosines(crops) - half.colours.cosines(crops)).abs().max()) < 0.05


def test_networks_are_loaded_once_and_let_go(folders: dict[str, Path]) -> None:
    own = make_metric(folders)
    first, colours = own.loaded, own.colours
    assert own.loaded is first and own.colours is colours
    own.release()
    assert own.loaded is not first and own.colours is not colours


def test_runs_of_its_prompts_are_scored(lab: Lab, folders: dict[str, Path], tmp_path: Path) -> None:
    thing = {"class": "person", "count": 1}
    path, _ = ask(tmp_path, "two_object", [thing, thing], prompt="a person and a person")
    own = [f"metric.geneval.model={folders['yolos']}", "metric.geneval.threshold=0"]
    done = lab("prompt_set=geneval", f"prompt_set.metadata={path}", "metric=geneval", *own)
    assert done.status == 0, done.error
    [row] = (lab.only_run() / "scores.csv").read_text().splitlines()[1:]
    assert ",geneval," in row and row.split(",geneval,")[1][0] in "01"
    refused = lab("metric=geneval", f"metric.geneval.metadata={path}", *own)
    assert refused.status != 0 and "metric geneval: metadata=" in refused.error
