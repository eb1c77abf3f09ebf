"""Score against cost: the best for each, and where costs come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from asyndm.errors import UserError
from evaluation.labels import GuidanceLabel, read_labels
from evaluation.runs.folder import Run
from experiments.engine.cost import forecast_per_image
from experiments.engine.sweep import plan_sweep
from experiments.figures import cost
from tests.experiments.figures.shared import OUTCOMES, tabulate, write_sweep
from tests.lab import Lab
from tests.written_runs import ASYNDM, DM, STATIC, write_run

GUIDED = GuidanceLabel("5", 5.0)


@pytest.mark.parametrize("lower", [False, True])
def test_the_front_is_the_best_for_its_cost(tmp_path: Path, lower: bool) -> None:
    scores = [(10, DM, "a"), (20, DM, "c"), (20, ASYNDM, "b"), (50, ASYNDM, "a")]
    for i, (steps, method, right) in enumerate(scores):
        write_run(tmp_path, f"{i}", OUTCOMES[right], method, num_inference_steps=steps)
    rows = [row | {"guidance": GUIDED, "higher_is_better": not lower} for row in tabulate(tmp_path)]
    (((_, points)),) = cost.find_panels(rows)
    best = {(point.evaluations, point.row["score"]) for point in cost.find_front(points)}
    assert best == ({(20, 0.5), (40, 0.25)} if lower else {(20, 0.5), (40, 0.75)})
    figure = cost.draw_figure(rows)
    markers = [line for line in figure.axes[0].get_lines() if line.get_marker() != "None"]
    assert sorted(float(np.asarray(m.get_ydata())[0]) for m in markers) == sorted(
        row["score"] for row in rows
    )
    filled = [m for m in markers if to_hex(m.get_markerfacecolor()) != "#ffffff"]
    assert {
        (round(float(np.asarray(m.get_xdata())[0])), float(np.asarray(m.get_ydata())[0]))
        for m in filled
    } == best
    bars = [bar.get_segments()[0][:, 1].tolist() for bar in figure.axes[0].collections]  # type: ignore[attr-defined]
    assert sorted(bars) == sorted([row["score_low"], row["score_high"]] for row in rows)


def test_what_runs_have_counted_is_their_cost(tmp_path: Path) -> None:
    counted = {"evaluations": {"rows": 28, "images": 4}}
    write_run(tmp_path, "dm", OUTCOMES["c"], DM, record=counted)
    write_run(tmp_path, "asyn", OUTCOMES["a"], ASYNDM)
    (((_, points)),) = cost.find_panels([row | {"guidance": GUIDED} for row in tabulate(tmp_path)])
    assert [(point.row["method"], point.evaluations) for point in points] == [
        ("DM", 7),
        ("AsynDM", 20),
    ], "AsynDM's is a forecast"


def test_a_cell_costs_what_its_plan_says(lab: Lab) -> None:
    swept = ["mask=none,dynamic,static", "num_inference_steps=2,5", "guidance.guidance_scale=1,3"]
    plans = plan_sweep(lab.arguments(*swept))
    assert len(plans) == 12
    for plan in plans:
        row = read_labels(
            Run(plan.folder, {"config": plan.config, "identity": plan.identity}, "pending")
        )
        assert cost.read_evaluations(row) == forecast_per_image(plan)


def test_cells_of_one_cost_are_no_front_and_guidance_must_be_known(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path)
    with pytest.raises(UserError, match="guidance: the rows do not tell it"):
        cost.draw_figure(rows)
    with pytest.raises(UserError, match="all methods cost the same"):
        cost.draw_figure([row | {"guidance": GuidanceLabel("1")} for row in rows])


def test_a_rehearsal_costs_where_all_take_the_same_steps(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", OUTCOMES["c"], DM)
    write_run(tmp_path, "static", OUTCOMES["a"], STATIC)
    (((_, points)),) = cost.find_panels([row | {"guidance": GUIDED} for row in tabulate(tmp_path)])
    assert sorted(point.evaluations for point in points) == [20, 40]
    assert cost.describe_front(cost.find_front(points), 60)
