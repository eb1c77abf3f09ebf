"""Paired differences with their intervals: which rows, where they stand, and what they are from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asyndm.errors import UserError
from evaluation.runs.folder import find_runs, read_run
from evaluation.tables import TableRow, make_table
from experiments.figures.effects import draw_figure, find_panels
from tests.experiments.figures.shared import list_texts, make_asyndm
from tests.written_runs import CONCAVE, DM, STATIC, write_run

AGAINST = (("method", "DM"), ("steps", "10"))


@pytest.fixture
def rows(tmp_path: Path) -> list[TableRow]:
    """Two models at two guidances, four prompts each, against DM in 10 steps."""
    for model in ("one", "two"):
        for scale in (2.0, 5.0):
            for name, right, method, steps in (
                ("dm", [0, 0, 0, 1], DM, 10),
                ("twice", [0, 0, 1, 1], DM, 20),
                ("concave", [0, 0, 0, 0], CONCAVE, 10),
                ("asyn", [1, 1, 0, 1], make_asyndm(), 10),
                ("more", [1, 1, 1, 1] if model == "two" else [0, 0, 0, 1], make_asyndm(0.8), 10),
            ):
                config = {"model": {"name": model}, "prompt_set": {"name": "shapes"}}
                write_run(
                    tmp_path,
                    f"{name}{model}{scale}",
                    right,
                    method,
                    record={"config": config},
                    num_inference_steps=steps,
                    guidance={"guidance_scale": scale, "negative_prompt": None},
                )
    return make_table(map(read_run, find_runs([tmp_path])), against=AGAINST)


def test_a_panel_a_guidance_a_line_a_method_a_place_a_model(rows: list[TableRow]) -> None:
    panels = find_panels(rows)
    assert [panel.facts["guidance"] for panel in panels] == [2.0, 5.0]
    names = ["DM_concave", "AsynDM, ω 0.5", "AsynDM, ω 0.8", "DM, 20 steps"]
    assert set(panels[0].rows) == {(name, model) for name in names for model in ("one", "two")}
    assert panels[0].rows["AsynDM, ω 0.8", "two"]["difference"] == 0.75

    figure = draw_figure(rows, "DM in 10 steps")
    left = figure.axes[0]
    assert left.get_title() == "guidance 2" and figure.axes[1].get_title() == "guidance 5"
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert sorted(labels) == sorted(names)
    points = {
        (float(np.asarray(line.get_xdata())[0]), round(float(np.asarray(line.get_ydata())[0]), 3))
        for line in left.get_lines()
        if line.get_marker() not in ("", "None", None)
    }
    more, concave = labels.index("AsynDM, ω 0.8"), labels.index("DM_concave")
    assert {(0.0, more - 0.125), (0.75, more + 0.125), (-0.25, concave - 0.125)} <= points
    assert len(points) == 8
    said = list_texts(figure)
    assert "minus DM in 10 steps, 4 pairs, bars: 95 %" in said and {"one", "two"} <= set(said)


def test_intervals_are_those_of_the_table(rows: list[TableRow]) -> None:
    (row,) = [
        row
        for row in rows
        if (row["model"], row["guidance"].scale, row["concavity"]) == ("one", 2.0, 0.5)
        and row["method"] == "AsynDM"
    ]
    bars = [bar for found in draw_figure(rows).axes[0].collections for bar in found.get_segments()]  # type: ignore[attr-defined]
    ends = {tuple(round(float(x), 9) for x in bar[:, 0]) for bar in bars}
    assert tuple(round(row[f"difference_{end}"], 9) for end in ("low", "high")) in ends


def test_what_is_too_little_or_not_compared_is_refused(
    rows: list[TableRow], tmp_path: Path
) -> None:
    few = [row for row in rows if row["method"] == "DM"]
    with pytest.raises(UserError, match="fewer than 3 methods are compared with DM"):
        draw_figure(few)
    write_run(tmp_path / "own", "static", [1, 0], STATIC)
    with pytest.raises(UserError, match="by --against"):
        draw_figure(make_table(map(read_run, find_runs([tmp_path / "own"]))))
