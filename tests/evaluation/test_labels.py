"""What runs are called: as their records say, or as the library's classes do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.labels import GuidanceLabel, MethodLabel, count_evaluations, read_labels
from evaluation.runs.folder import Run, read_run
from tests.written_runs import ASYNDM, DM, STATIC, make_method, write_run


def read_one(folder: Path, method: dict[str, Any] = DM, **changes: Any) -> Run:
    """A run of one image with these changes of its identity."""
    write_run(folder, "a", [1], method, **changes)
    return read_run(folder / "a")


@pytest.mark.parametrize(
    ("guidance", "text", "scale", "rest"),
    [
        ({"guidance_scale": 5.0, "negative_prompt": None}, "5", 5.0, ""),
        ({}, "", 1.0, ""),
        ({"guidance_scale": 2.5, "negative_prompt": "a b"}, "2.5 not 'a b'", 2.5, "not 'a b'"),
        ({"_target_": "mine.Own", "guidance_scale": 3.0, "k": 2}, "Own 3", 3.0, "Own k=2"),
    ],
)
def test_a_guidance_has_a_text_and_what_figures_are_drawn_by(
    tmp_path: Path, guidance: dict[str, Any], text: str, scale: float, rest: str
) -> None:
    label: GuidanceLabel = read_labels(read_one(tmp_path, guidance=guidance))["guidance"]
    assert (label, label.scale, label.rest) == (text, scale, rest)
    run = read_one(tmp_path, guidance=guidance, negative_prompts="abc")
    label = read_labels(run)["guidance"]
    assert label == f"{text} negative_prompts=abc".strip() and "negative_prompts=abc" in label.rest


@pytest.mark.parametrize(
    ("method", "text", "bends", "rehearses"),
    [
        (DM, "DM", False, False),
        (ASYNDM, "AsynDM", True, False),
        (STATIC, "AsynDM_static", True, True),
        (make_method("Mine", "Quadratic"), "Mine", True, False),
        ({**ASYNDM, "mask": {"_target_": "asyndm.masks.Mask"}}, "Mask", True, False),
        ({**ASYNDM, "mask": {"_target_": "mine.NoMask"}}, "NoMask", True, False),
    ],
)
def test_the_mask_of_an_older_record_is_looked_up_in_the_library_alone(
    tmp_path: Path, method: dict[str, Any], text: str, bends: bool, rehearses: bool
) -> None:
    label: MethodLabel = read_labels(read_one(tmp_path, method))["method"]
    assert (label, label.bends, label.rehearses) == (text, bends, rehearses)


def test_a_record_says_what_its_choices_are_called(tmp_path: Path) -> None:
    choices = {
        "mask": {"label": "steady", "bends": True, "rehearses": True},
        "curve": {"label": "sine"},
        "guidance": {"label": "CFG++ 0.6"},
    }
    labels = read_labels(read_one(tmp_path, ASYNDM, record={"choices": choices}))
    assert (labels["method"], labels["curve"], labels["guidance"]) == (
        "steady",
        "sine",
        "CFG++ 0.6",
    )
    assert labels["method"].rehearses and labels["guidance"].scale == 5


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(None, None), ({"rows": 0, "images": 0}, None), ({"rows": 30, "images": 3}, (30, 3))],
)
def test_evaluations_are_told_once_there_is_an_image(
    tmp_path: Path, told: dict[str, int] | None, wanted: tuple[int, int] | None
) -> None:
    record = {} if told is None else {"evaluations": told}
    assert count_evaluations(read_one(tmp_path, record=record)) == wanted
