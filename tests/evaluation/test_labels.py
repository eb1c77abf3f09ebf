"""What runs are called: as their records say, or as the library's classes do."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import asyndm
from asyndm.guidance import Cost
from evaluation.labels import (
    USUAL_READING,
    GuidanceLabel,
    MethodLabel,
    count_evaluations,
    read_labels,
)
from evaluation.runs.folder import Run, read_run
from experiments.engine import schema
from tests.written_runs import ASYNDM, DM, STATIC, make_method, write_run

CFG = "asyndm.guidance.ClassifierFree"


def read_one(folder: Path, method: dict[str, Any] = DM, **changes: Any) -> Run:
    """A run of one image with these changes of its identity."""
    write_run(folder, "a", [1], method, **changes)
    return read_run(folder / "a")


@pytest.mark.parametrize(
    ("guidance", "text", "scale", "rest"),
    [
        ({"guidance_scale": 5.0, "negative_prompt": None}, "5", 5.0, ""),
        ({}, "", None, ""),
        ({"negative_prompt": "a b"}, "not 'a b'", None, "not 'a b'"),
        ({"guidance_scale": 2.5, "negative_prompt": "a b"}, "2.5 not 'a b'", 2.5, "not 'a b'"),
        ({"_target_": "mine.Own", "guidance_scale": 3.0, "k": 2}, "Own 3", 3.0, "Own k=2"),
        ({"_target_": "asyndm.guidance.base.Guidance"}, "Guidance", None, "Guidance"),
        ({"_target_": CFG, "guidance_scale": 3.0}, "cfg 3", 3.0, "cfg"),
    ],
)
def test_a_guidance_has_a_text_and_what_figures_are_drawn_by(
    tmp_path: Path, guidance: dict[str, Any], text: str, scale: float | None, rest: str
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
        "guidance": {"label": "CFG++ 0.6", "forward": 30.0, "backward": 4.5, "exact": False},
        "solver": {"label": "leap 3"},
    }
    labels = read_labels(read_one(tmp_path, ASYNDM, record={"choices": choices}))
    assert (labels["method"], labels["curve"], labels["guidance"], labels["solver"]) == (
        "steady",
        "sine",
        "CFG++ 0.6",
        "leap 3",
    )
    assert labels["method"].forecast == Cost(30, 4.5, False), "rehearsals are in it"
    assert labels["method"].rehearses and labels["guidance"].scale == 5


@pytest.mark.parametrize(
    ("label", "rest"),
    [
        ("5", ""),
        ("seg 5 5", "seg 5"),
        ("seg 3 5 not 'a 5'", "seg 3 not 'a 5'"),
        ("cfg_plus_plus 0.5", "cfg_plus_plus 0.5"),
        ("CFG++ 15", "CFG++ 15"),
    ],
)
def test_figures_are_drawn_by_the_label_without_its_scale(
    tmp_path: Path, label: str, rest: str
) -> None:
    choices = {"guidance": {"label": label, "forward": 30.0}}
    given = {"guidance_scale": 5.0, "refine_at": [0.0, 0.2], "sigma": "inf"}
    run = read_one(tmp_path, guidance=given, record={"choices": choices})
    assert read_labels(run)["guidance"].rest == rest


@pytest.mark.parametrize(
    ("scale", "guided", "wanted"),
    [(None, True, 2), (0.0, True, 1), (0.5, True, 1), (5.0, True, 2), (5.0, False, 1)],
)
def test_an_image_costs_what_its_guidance_says(
    tmp_path: Path, scale: float | None, guided: bool, wanted: int
) -> None:
    config = {"model": {"name": "tiny", "guided": guided}, "prompt_set": {"name": "shapes"}}
    run = read_one(tmp_path, guidance={"guidance_scale": scale}, record={"config": config})
    assert read_labels(run)["method"].forecast == Cost(10 * wanted)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (None, "ddim"),
        ({"_target_": "asyndm.solvers.Heun"}, "heun"),
        ({"_target_": "asyndm.solvers.DPMSolverPlusPlus2M", "max_ratio": None}, "dpmpp_2m"),
        ({"_target_": "mine.LeapFrog"}, "leap_frog"),
    ],
)
def test_the_solver_of_a_record_without_labels_is_looked_up_in_the_library_alone(
    tmp_path: Path, solver: dict[str, Any] | None, name: str
) -> None:
    changes = {} if solver is None else {"solver": solver}
    assert read_labels(read_one(tmp_path, **changes))["solver"] == name


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"guidance": {"_target_": "mine.Own", "guidance_scale": 3.0}}, None),
        ({"guidance": {"_target_": "asyndm.guidance.ClassifierFree"}}, 1),
        ({"guidance": {"_target_": "asyndm.guidance.classifier_free.ClassifierFree"}}, 1),
        ({"guidance": {}, "pipeline_arguments": {"true_cfg_scale": 4}}, 1),
        (
            {
                "guidance": {"negative_prompt": "a"},
                "pipeline_arguments": {"true_cfg_scale": 4},
            },
            2,
        ),
        (
            {
                "guidance": {},
                "pipeline_arguments": {"true_cfg_scale": 4},
                "negative_prompts": "abc",
            },
            None,
        ),
        ({"guidance": {}, "negative_prompts": "abc"}, 1),
    ],
)
def test_an_image_of_a_distilled_network_costs_what_its_arguments_say(
    tmp_path: Path, changes: dict[str, Any], wanted: int | None
) -> None:
    config = {"model": {"name": "tiny", "guided": False}, "prompt_set": {"name": "shapes"}}
    run = read_one(tmp_path, record={"config": config}, **changes)
    assert read_labels(run)["method"].forecast == (None if wanted is None else Cost(10 * wanted))


def test_what_goes_without_saying_is_what_is_set_unless_something_else_is_asked_for() -> None:
    signature = inspect.signature(asyndm.sample).parameters
    for name, usual in USUAL_READING.items():
        configured = getattr(schema.Config, name)
        assert usual == signature[name].default
        assert usual == (configured.name if isinstance(configured, Enum) else configured)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (None, None),
        ({"rows": 0, "images": 0}, None),
        ({"rows": 30, "images": 3}, (30, 0, 3)),
        ({"rows": 30, "images": 3, "backward": 6}, (30, 6, 3)),
    ],
)
def test_evaluations_are_told_once_there_is_an_image(
    tmp_path: Path, told: dict[str, int] | None, wanted: tuple[int, int, int] | None
) -> None:
    record = {} if told is None else {"evaluations": told}
    assert count_evaluations(read_one(tmp_path, record=record)) == wanted
