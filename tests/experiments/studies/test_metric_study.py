"""Metrics against the truth: the statistics against scipy and by hand, the command on runs of this
laboratory."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from evaluation.agreement import pairwise_accuracy, rank_correlation
from evaluation.runs.folder import SCORES_FILE
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ScoreRow
from experiments.studies.metric_study import main
from tests.lab import Lab


def test_the_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 2, 200).astype(float)
    values = np.round(truths + rng.normal(size=200), 1)
    found = rank_correlation(values.tolist(), truths.tolist(), [i // 4 for i in range(200)])
    assert found is not None and found.mean == pytest.approx(
        spearmanr(values, truths).statistic, abs=1e-12
    )
    assert found.low < found.mean < found.high and found.n == 200


def test_the_interval_of_the_correlation_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)

    def draw(prompts: int) -> tuple[list[float], list[float], list[int]]:
        shift = np.repeat(rng.normal(size=prompts), 4)
        truths = (rng.normal(size=4 * prompts) + shift > 0).astype(float)
        values = truths + shift + rng.normal(size=4 * prompts)
        return values.tolist(), truths.tolist(), np.repeat(np.arange(prompts), 4).tolist()

    values, truths, _ = draw(50_000)
    population = spearmanr(values, truths).statistic
    covered = 0
    for _ in range(60):
        found = rank_correlation(*draw(60))
        assert found is not None
        covered += found.low <= population <= found.high
    assert covered >= 51


def test_pairs_are_of_one_prompt_and_ties_count_half() -> None:
    values, truths = [0.9, 0.1, 0.5, 0.5, 0.0, 0.3], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    found = pairwise_accuracy(values, truths, ["a", "a", "b", "b", "c", "c"])
    assert found is not None and found.mean == pytest.approx(0.75) and found.n == 2
    crossed = pairwise_accuracy(values, truths, ["a", "b", "b", "a", "a", "b"])
    assert (
        crossed is not None
        and crossed.mean == pytest.approx(np.mean([1, 0, 1, 1]))
        and crossed.n == 4
    )
    assert 0 <= crossed.low < crossed.mean < crossed.high <= 1
    always = pairwise_accuracy(
        [1.0, 0.0] * 30, [1.0, 0.0] * 30, np.repeat(np.arange(30), 2).tolist()
    )
    assert (
        always is not None
        and (always.mean, always.high, always.n) == (1.0, 1.0, 30)
        and always.low < 0.9
    )
    ties = pairwise_accuracy([1.0, 1.0], [1.0, 0.0], ["a", "a"])
    assert ties is not None and (ties.mean, ties.low) == (0.5, -np.inf)
    assert pairwise_accuracy([1.0, 0.0], [1.0, 1.0], ["a", "a"]) is None
    assert rank_correlation([1.0, 0.0], [1.0, 1.0], ["a", "b"]) is None
    single = rank_correlation([1.0, 0.0], [1.0, 0.0], ["a", "a"])
    assert single is not None and (single.mean, single.low) == (1.0, -np.inf)


def test_the_study_of_runs(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab(
        "metric=none",
        "+metric.brightness._target_=tests.experiments.metrics.Brightness",
        "images_per_prompt=4",
    )
    run = lab.only_run()
    assert main([str(lab.runs)]) == 1
    assert "no run there has scores of exact and of another metric" in capsys.readouterr().err
    scores = read_rows(run / SCORES_FILE, ScoreRow)
    middle = float(np.median([row.value for row in scores if row.value is not None]))
    truths = [
        ScoreRow(
            row.run_id,
            row.prompt_id,
            row.image_index,
            "exact",
            float((row.value or 0) > middle),
            "",
        )
        for row in scores
    ]
    write_rows(run / SCORES_FILE, ScoreRow, [*scores, *truths])
    assert main([str(lab.runs), "--out", str(lab.folder / "study")]) == 0
    table = capsys.readouterr().out
    with (lab.folder / "study" / "metric_study.csv").open() as file:
        rows = {row["kind"]: row for row in csv.DictReader(file)}
    assert {"all", "pair", "single"} == set(rows) and rows["all"]["images"] == "12"
    assert float(rows["all"]["correlation"]) > 0.8 and f"{float(rows['all']['right']):.3f}" in table
    assert rows["pair"]["accuracy"] in ("", "1.0") and float(rows["all"]["accuracy_low"] or 0) <= 1
    record = json.loads((run / "run.json").read_text())
    record["metrics"]["brightness"]["higher_is_better"] = False
    (run / "run.json").write_text(json.dumps(record))
    assert main([str(run), "--out", str(lab.folder / "turned")]) == 0
    with (lab.folder / "turned" / "metric_study.csv").open() as file:
        turned = next(csv.DictReader(file))
    assert float(turned["correlation"]) == pytest.approx(-float(rows["all"]["correlation"]))
    shutil.copytree(run, lab.runs / "other")
    record["metrics"]["brightness"]["version"] = 2
    (lab.runs / "other" / "run.json").write_text(json.dumps(record))
    assert main([str(lab.runs)]) == 1
    assert "its brightness rests on something else than that of" in capsys.readouterr().err
    with Image.open(lab.folder / "study" / "metric_study.png") as picture:
        assert picture.width > 800
    assert (lab.folder / "study" / "metric_study.svg").read_text().startswith("<?xml")


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no runs there" in capsys.readouterr().err
