"""The folders whose costs are measured are what runs leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.score import main as score
from experiments.report.command import main as report
from experiments.studies.scale.command import Cost, main, measure_command
from experiments.studies.scale.folders import make_runs


def test_the_folders_are_those_of_finished_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(tmp_path / "runs", 8)
    pictures = [path.read_bytes() for path in (tmp_path / "runs").rglob("*.png")]
    assert len(pictures) == len(set(pictures)) == 8 + 4
    assert score([str(tmp_path / "runs"), "metric=exact"]) == 0
    assert capsys.readouterr().out.count("4 of 4 pictures, 0 new") == 2
    assert report([str(tmp_path / "runs")]) == 0
    said = capsys.readouterr()
    assert "Every row: 4 images" in said.out and "| AsynDM " in said.out and not said.err


def test_the_command_measures_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images", "2", "--commands", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "|  | 2 images |"
        and lines[2].startswith("| status | ")
        and lines[2].endswith(" MB |")
    )
    assert measure_command(["experiments.status", "nowhere"], limit=0) == Cost(None, None)
    with pytest.raises(
        UserError, match=r"experiments\.status nowhere: error: nowhere: no such folder"
    ):
        measure_command(["experiments.status", "nowhere"], limit=100)
    assert main(["--images", "1"]) == 1
    assert "--images 1: must be at least 2" in capsys.readouterr().err
