"""Metrics against the truth: the command on runs of this laboratory."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.runs.folder import SCORES_FILE
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ScoreRow
from experiments.studies.metric_study import (
    Judgement,
    compute_agreements,
    main,
    plot_agreements,
)
from tests.lab import Lab


def test_a_kind_called_all_is_not_all_kinds(tmp_path: Path) -> None:
    judgements = [
        Judgement("all", "a", 1.0, 1.0),
        Judgement("all", "a", 0.0, 0.0),
        Judgement("pair", "b", 1.0, 0.0),
        Judgement("pair", "b", 0.0, 1.0),
    ]
    rows = compute_agreements({"m": judgements})
    assert [(row.kind, row.images) for row in rows] == [("all", 4), ("'all'", 2), ("pair", 2)]
    assert [row.accuracy.mean for row in rows if row.accuracy] == [0.5, 1.0, 0.0]
    plot_agreements(tmp_path / "plot", rows)
    names = [path.suffix for path in sorted(tmp_path.iterdir())]
    assert names == [".png", ".svg"]


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
