"""The same prompts and seeds under three methods: which ones, in what order, under what name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.colours import RIGHT, WRONG
from evaluation.runs.folder import Run, find_runs, read_run
from evaluation.runs.rows import ScoreRow
from evaluation.runs.traces import read_trace
from experiments.figures.seeds import choose_trio, collect_shots, draw_figure, name_methods
from experiments.figures.strip import find_trace_file
from tests.experiments.figures.shared import list_texts
from tests.lab import Lab
from tests.written_runs import ASYNDM, CONCAVE, DM, Made, change_record, write_pictures


def judge(runs: Sequence[Run], rights: Sequence[Sequence[float]]) -> list[Run]:
    """The runs with these scores of their images, each with a reason where it is wrong."""
    return [
        replace(
            run,
            scores=[
                ScoreRow(
                    "",
                    image.prompt_id,
                    image.image_index,
                    "exact",
                    right,
                    "" if right else "the dog is a cat",
                )
                for image, right in zip(run.images, row, strict=True)
            ],
        )
        for run, row in zip(runs, rights, strict=True)
    ]


def test_rows_are_chosen_by_order_alone_and_framed_by_outcome(sampled: Lab) -> None:
    runs = [read_run(folder) for folder in find_runs([sampled.runs])]
    trio = choose_trio(runs)
    assert [str(run.identity["mask"]["_target_"]).rpartition(".")[2] for run in trio] == [
        "NoMask",
        "GlobalMask",
        "DynamicMask",
    ]
    asyn = trio[-1]
    prompts = [image.prompt for image in asyn.images]
    wanted = [prompts[0], prompts[2], prompts[1]]
    for right in (0.0, 1.0):
        outcomes = judge(trio, [[right, 1 - right, right]] * 3)
        assert [shot[0].image.prompt for shot in collect_shots(outcomes, 5)] == wanted
        assert {shot.right for shot in collect_shots(outcomes, 1)[0]} == {bool(right)}

    figure = draw_figure(judge(trio, [[1, 0, 1], [0, 0, 0], [1, 1, 1]]), 2)
    words = list_texts(figure)
    assert [word for word in words if word[0] in "✓✗"].count("✗ the dog is a cat") == 2
    frames = [
        to_hex(axes.spines["left"].get_edgecolor())
        for axes in figure.axes
        if axes.spines["left"].get_visible() and axes.spines["left"].get_linewidth() > 2
    ]
    assert frames == [RIGHT, WRONG, RIGHT] * 2
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    way = read_trace(find_trace_file(asyn, asyn.images[0]))
    with Image.open(asyn.folder / asyn.images[0].file) as picture:
        for wanted_picture in (picture.convert("RGB"), way.maps[1], way.masks[1]):
            assert any(np.array_equal(one, np.asarray(wanted_picture)) for one in shown)
    assert any("never chosen by outcome" in word for word in words)


def write_traced(
    folder: Path, method: Mapping[str, Any], identity: Mapping[str, Any] = {}, **facts: Any
) -> Run:
    """A run of one picture with its trace, whose record says these things of its mask."""
    # As a copy: of `DM` itself no trace is written.
    write_pictures(folder, dict(method), [Made("a dog", scores={"exact": 1.0})], **identity)
    change_record(folder, choices={"mask": facts} if facts else {})
    return read_run(folder)


def test_each_column_is_headed_by_what_its_own_run_is_called(tmp_path: Path) -> None:
    runs = [
        write_traced(tmp_path / "dm", DM),
        write_traced(tmp_path / "concave", CONCAVE),
        write_traced(tmp_path / "own", ASYNDM, label="steady", follows_attention=True),
    ]
    said = list_texts(draw_figure(runs))
    assert {"DM", "DM_concave", "steady"} <= set(said) and "AsynDM" not in said
    assert "only the subjects stay noisy for longer" in said
    assert name_methods(runs) == "DM, DM_concave and steady"
    runs[1] = write_traced(tmp_path / "flat", CONCAVE, label="flat", uniform=True)
    assert {"DM", "flat", "steady"} <= set(list_texts(draw_figure(runs)))


def test_a_guidance_and_a_solver_that_are_not_the_usual_ones_are_named(tmp_path: Path) -> None:
    own = {
        "guidance": {"_target_": "asyndm.guidance.SmoothedEnergy", "guidance_scale": 5.0},
        "solver": {"_target_": "asyndm.solvers.DPMSolverPlusPlus2M"},
    }
    for identity, named in (({}, ", 10 steps, "), (own, "tiny, guidance seg 5, dpmpp_2m, ")):
        runs = [
            write_traced(tmp_path / f"{len(identity)}{i}", method, identity)
            for i, method in enumerate((DM, CONCAVE, ASYNDM))
        ]
        (caption,) = [text for text in list_texts(draw_figure(runs)) if text.startswith("Rows:")]
        assert named in caption and ("guidance" in caption) == bool(identity)


def test_a_heading_is_no_wider_than_its_column(tmp_path: Path) -> None:
    long = "steady_" * 20
    runs = [
        write_traced(tmp_path / "dm", DM),
        write_traced(tmp_path / "concave", CONCAVE),
        write_traced(tmp_path / "own", ASYNDM, label=long, follows_attention=True),
    ]
    (heading,) = [text for text in list_texts(draw_figure(runs)) if text.startswith("steady_")]
    assert heading.endswith("…") and len(heading) < len(long)


def test_a_method_that_does_none_of_these_has_no_column(tmp_path: Path) -> None:
    runs = [
        write_traced(tmp_path / "dm", DM),
        write_traced(tmp_path / "concave", CONCAVE),
        write_traced(tmp_path / "own", ASYNDM, label="outside"),
    ]
    with pytest.raises(UserError, match="no run of AsynDM; ask for it too: mask=none,"):
        draw_figure(runs)
