"""Score against cost: the best for each, and where costs come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from asyndm.errors import UserError
from evaluation.labels import read_labels
from evaluation.runs.folder import Run
from experiments.engine.cost import forecast_per_image
from experiments.engine.sweep import plan_sweep
from experiments.figures import cost
from tests.experiments.figures.shared import OUTCOMES, list_texts, tabulate, write_sweep
from tests.lab import Lab
from tests.written_runs import ASYNDM, DM, STATIC, write_run


@pytest.mark.parametrize("lower", [False, True])
def test_the_front_is_the_best_for_its_cost(tmp_path: Path, lower: bool) -> None:
    scores = [(10, DM, "a"), (20, DM, "c"), (20, ASYNDM, "b"), (50, ASYNDM, "a")]
    for i, (steps, method, right) in enumerate(scores):
        write_run(tmp_path, f"{i}", OUTCOMES[right], method, num_inference_steps=steps)
    rows = [row | {"higher_is_better": not lower} for row in tabulate(tmp_path)]
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
    bars = [
        bar.get_segments()[0][:, 1].tolist()  # type: ignore[attr-defined]
        for bar in figure.axes[0].collections
    ]
    assert sorted(bars) == sorted([row["score_low"], row["score_high"]] for row in rows)


def test_what_runs_have_counted_is_their_cost(tmp_path: Path) -> None:
    counted = {"evaluations": {"rows": 28, "images": 4}}
    write_run(tmp_path, "dm", OUTCOMES["c"], DM, record=counted)
    write_run(tmp_path, "asyn", OUTCOMES["a"], ASYNDM)
    (((_, points)),) = cost.find_panels(tabulate(tmp_path))
    assert [(point.row["method"], point.evaluations) for point in points] == [
        ("DM", 7),
        ("AsynDM", 20),
    ], "AsynDM's is a forecast"


@pytest.mark.parametrize("guided", [True, False])
def test_a_cell_costs_what_its_plan_says(lab: Lab, guided: bool) -> None:
    swept = [
        "mask=none,dynamic,static",
        "num_inference_steps=2,5",
        "guidance.guidance_scale=null,0,0.5,1,5",
    ]
    plans = plan_sweep(lab.arguments(*swept, f"model.guided={guided}"))
    assert len(plans) == 30
    for plan in plans:
        row = read_labels(
            Run(plan.folder, {"config": plan.config, "identity": plan.identity}, "pending")
        )
        assert cost.read_evaluations(row) == forecast_per_image(plan).forward
        told = {"config": plan.config, "identity": plan.identity, "choices": plan.choices}
        row = read_labels(Run(plan.folder, told, "pending"))
        assert cost.read_evaluations(row) == forecast_per_image(plan).forward


def test_a_row_backward_counts_as_two(tmp_path: Path) -> None:
    counted = {"evaluations": {"rows": 28, "images": 4, "backward": 8}}
    told = {"label": "attend", "forward": 15.0, "backward": 2.5, "exact": False}
    write_run(tmp_path, "dm", OUTCOMES["c"], DM)
    write_run(tmp_path, "asyn", OUTCOMES["a"], ASYNDM, record=counted)
    write_run(
        tmp_path,
        "static",
        OUTCOMES["a"],
        STATIC,
        record={"choices": {"guidance": told | {"label": "5"}}},
    )
    rows = tabulate(tmp_path)
    (((_, points)),) = cost.find_panels(rows)
    assert [point.evaluations for point in points] == [11, 20, 20]
    assert any(
        "; a row backward counts as 2" in text for text in list_texts(cost.draw_figure(rows))
    )


def test_cells_of_one_cost_are_no_front(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all methods cost the same"):
        cost.draw_figure(write_sweep(tmp_path))


def test_cells_of_unknown_cost_are_left_out(tmp_path: Path) -> None:
    own = {"_target_": "mine.Own", "guidance_scale": 3.0}
    write_run(tmp_path, "own", OUTCOMES["a"], ASYNDM, guidance=own)
    with pytest.raises(UserError, match="the cost of 1 cell is not known: neither"):
        cost.draw_figure(tabulate(tmp_path))
    for steps in (10, 20):
        write_run(tmp_path, f"dm{steps}", OUTCOMES["c"], DM, num_inference_steps=steps)
    rows = tabulate(tmp_path)
    (((_, points)),) = cost.find_panels(rows)
    assert [point.evaluations for point in points] == [20, 40]
    assert any(
        "; 1 cell of unknown cost not shown" in text for text in list_texts(cost.draw_figure(rows))
    )
    for steps, rows_of_network in ((10, 60), (20, 120)):
        counted = {"evaluations": {"rows": rows_of_network, "images": 4}}
        write_run(
            tmp_path,
            f"own{steps}",
            OUTCOMES["a"],
            ASYNDM,
            guidance=own,
            num_inference_steps=steps,
            record=counted,
        )
    (((_, points)),) = cost.find_panels(tabulate(tmp_path))
    assert [point.evaluations for point in points] == [15, 20, 30, 40]


def test_guidances_compete_in_one_panel_and_the_front_names_them(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", OUTCOMES["c"], DM)
    settings = {f"setting_{i}": [0.1, 0.2] for i in range(12)}
    own = {"_target_": "mine.Own", "guidance_scale": 3.0, **settings}
    for i, name in enumerate(("attend 20 3", "attend 40 3")):
        counted = {"rows": 10500 + 4 * i, "images": 400, "backward": 7300}
        choices = {"guidance": {"label": name, "forward": 60.0, "exact": False}}
        right, strength = OUTCOMES["ab"[i]], {"strength": i}
        record = {"evaluations": counted, "choices": choices}
        write_run(tmp_path, name, right, ASYNDM, guidance=own | strength, record=record)
    rows = tabulate(tmp_path)
    (((_, points)),) = cost.find_panels(rows)
    assert len(points) == 3
    texts = list_texts(cost.draw_figure(rows))
    assert {"20", "62.8"} <= set(texts), "one tick for two costs that lie close together"
    (words,) = (text for text in texts if "best mean at" in text)
    assert "best mean at 20: DM, cfg" in words
    assert "best mean at 62.8: AsynDM, attend 20" in words.replace("\n", " ")
    assert "setting_" not in words


def test_a_rehearsal_costs_where_all_take_the_same_steps(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", OUTCOMES["c"], DM)
    write_run(tmp_path, "static", OUTCOMES["a"], STATIC)
    (((_, points)),) = cost.find_panels(tabulate(tmp_path))
    assert sorted(point.evaluations for point in points) == [20, 40]
    assert cost.describe_front(cost.find_front(points), 60)
