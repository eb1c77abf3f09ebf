"""Lines show the numbers of the table, and only what agrees in all else shares a panel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from asyndm.errors import UserError
from evaluation.labels import GuidanceLabel
from evaluation.tables import TableRow
from experiments.figures import lines
from tests.experiments.figures.shared import (
    OUTCOMES,
    list_lines,
    list_texts,
    make_asyndm,
    tabulate,
    write_sweep,
)
from tests.written_runs import CONCAVE, DM, write_run


def test_lines_and_bands_have_the_numbers_of_the_table(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path)
    assert lines.find_varied(rows) == ["concavity"]
    figure = lines.draw_figure(rows, "concavity")
    dm, *asyn = rows
    points = list_lines(figure)
    assert points["AsynDM"] == ([0.3, 0.5, 0.8], [row["score"] for row in asyn])
    assert set(points["DM"][1]) == {dm["score"]} and figure.axes[0].get_ylabel() == "exact ↑"
    (band,) = figure.axes[0].collections
    vertices = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).tolist()}
    assert vertices == {
        (row["concavity"], row[end]) for row in asyn for end in ("score_low", "score_high")
    }
    (span,) = figure.axes[0].patches
    low, high = span.get_extents().transformed(figure.axes[0].transData.inverted()).intervaly
    assert (low, high) == (pytest.approx(dm["score_low"]), pytest.approx(dm["score_high"]))


def test_a_setting_that_means_nothing_to_a_method_leaves_it_level(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", OUTCOMES["a"], DM)
    write_run(tmp_path, "concave", OUTCOMES["b"], CONCAVE)
    for name, threshold in zip("abc", (0.5, 1.0, 1.5), strict=True):
        write_run(tmp_path, f"asyn{name}", OUTCOMES[name], make_asyndm(threshold=threshold))
    rows = tabulate(tmp_path)
    assert lines.find_varied(rows) == ["threshold"]
    rows += [row | {"settings": "subjects=other"} for row in rows if row["method"] == "DM_concave"]
    (panel,) = lines.find_panels(rows, "threshold")
    assert {line.name: line.xs for line in panel.lines} == {
        "DM": (),
        "DM_concave": (),
        "AsynDM": (0.5, 1.0, 1.5),
    }


def test_only_what_agrees_in_all_else_shares_a_panel(tmp_path: Path) -> None:
    for i, (steps, eta) in enumerate(itertools.product((10, 20, 50), (0.0, 1.0))):
        for name, method in (("dm", DM), ("a3", make_asyndm(0.3)), ("a5", make_asyndm(0.5))):
            write_run(
                tmp_path,
                f"{name}-{i}",
                OUTCOMES["abc"[i % 3]],
                method,
                num_inference_steps=steps,
                eta=eta,
            )
    write_run(tmp_path, "alone", OUTCOMES["a"], make_asyndm(0.8), eta=0.5)
    rows = tabulate(tmp_path)
    assert lines.find_varied(rows) == ["steps"]
    found = lines.find_panels(rows, "steps")
    assert sorted((p.facts["eta"], p.facts["concavity"]) for p in found) == list(
        itertools.product((0.0, 1.0), (0.3, 0.5))
    )
    for panel in found:
        assert [(line.name, line.xs) for line in panel.lines] == [
            ("DM", (10, 20, 50)),
            ("AsynDM", (10, 20, 50)),
        ]
        assert {row["eta"] for line in panel.lines for row in line.rows} == {panel.facts["eta"]}
    figure = lines.draw_figure(rows, "steps")
    titles = [axes.get_title() for axes in figure.axes]
    assert sorted(titles) == ["η 0, ω 0.3", "η 0, ω 0.5", "η 1, ω 0.3", "η 1, ω 0.5"]


def test_guidance_is_a_number_and_its_negative_prompt_a_condition() -> None:
    def row(guidance: GuidanceLabel, score: float) -> TableRow:
        return {
            "method": "DM",
            "curve": "",
            "concavity": "",
            "steps": 5,
            "guidance": guidance,
            "n": 9,
        } | {
            "metric": "distance",
            "higher_is_better": False,
            "score": score,
            "score_low": -np.inf,
            "score_high": np.inf,
        }

    rows = [row(GuidanceLabel(f"{g:g}", g), g / 10) for g in (1.0, 2.5, 10.0)]
    rows.append(row(GuidanceLabel("2.5 not 'blurry'", 2.5, "not 'blurry'"), 0.4))
    rows.append(row(GuidanceLabel(""), 0.7) | {"method": "AsynDM"})
    figure = lines.draw_figure(rows, "guidance")
    assert list_lines(figure) == {"DM": ([1, 2.5, 10], [0.1, 0.25, 1.0])}, "one's own is no scale"
    assert [axes.get_ylabel() for axes in figure.axes] == ["distance ↓"]
    assert figure.axes[0].get_ylim()[1] < 2  # an unknown interval has no band
    with pytest.raises(UserError, match="eta: takes fewer than 3 values"):
        lines.draw_figure(rows, "eta")


def test_where_panels_are_many_the_exact_metric_is_shown(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path)
    many = [
        row | {"metric": metric, "model": model}
        for metric in ("exact", "other")
        for model in "pqrstuv"
        for row in rows
    ]
    figure = lines.draw_figure(many, "concavity")
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["exact ↑"] * 2
    assert [axes.get_title() for axes in figure.axes] == list("pqrstu")
    assert any("1 more not shown" in text for text in list_texts(figure))
