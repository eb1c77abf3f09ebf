"""Figures by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from evaluation.runs.folder import SCORES_FILE, find_runs, read_run
from evaluation.tables import make_table
from experiments.figures.command import draw, main
from tests.experiments.figures.shared import OUTCOMES
from tests.lab import Lab
from tests.written_runs import DM, write_run


def test_the_command_writes_what_there_is_data_for_and_says_the_rest(
    sampled: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in sampled.runs.glob("*-2-*"):
        unscored = shutil.ignore_patterns(SCORES_FILE)
        shutil.copytree(folder, tmp_path / "runs" / folder.name, ignore=unscored)
    runs = [read_run(folder) for folder in find_runs([tmp_path / "runs"])]
    out = tmp_path / "figures"
    assert main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    names = ["seeds", "strip", "curves"]
    assert said.out.splitlines() == [f"{out / name}.png, .svg" for name in names]
    refused = said.err.splitlines()
    assert [line.split(":")[1].strip() for line in refused] == ["lines", "cost"]
    assert all("no scores" in line for line in refused)
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [
        f"{name}.{end}" for name in sorted(names) for end in ("png", "svg")
    ]
    before = [file.read_bytes() for file in files]
    assert draw(runs, make_table(runs), out) == [
        out / f"{name}.{end}" for name in names for end in ("png", "svg")
    ]
    assert [file.read_bytes() for file in files] == before
    with Image.open(out / "seeds.png") as picture:
        assert picture.width == 1200


def test_lines_and_cost_are_written_twice_alike(tmp_path: Path) -> None:
    for steps, name in ((5, "a"), (10, "b"), (20, "c")):
        write_run(tmp_path / "runs", f"{steps}", OUTCOMES[name], DM, num_inference_steps=steps)
    content = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert main([str(tmp_path / "runs"), "--out", str(out), "--only", "lines,cost"]) == 0
        content.append({file.name: file.read_bytes() for file in sorted(out.iterdir())})
    assert content[0] == content[1]
    assert list(content[0]) == ["cost.png", "cost.svg", "lines_steps.png", "lines_steps.svg"]


def test_errors_are_one_line_that_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main([*out, "--only", "curves,pie"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: --only pie: no such figure; choose from seeds,"
    )
    assert main([*out, "--only", "strip"]) == 1
    assert (
        capsys.readouterr().err
        == "not drawn: strip: no runs; name their folders, or use --only curves\n"
    )
    write_run(tmp_path / "runs", "dm", [1, 0], DM)
    assert main([str(tmp_path / "runs"), *out, "--metric", "clip"]) == 1
    assert "--metric clip: no such scores; there are exact" in capsys.readouterr().err
    assert main([str(tmp_path / "runs"), *out, "--only", "lines,seeds"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        "takes 3 values or more" in said[0]
        and "no run of DM_concave and AsynDM; ask for it" in said[1]
    )
