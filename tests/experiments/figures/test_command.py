"""Figures by the command line, and pictures of real runs, chosen by order alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from evaluation.runs.colours import RIGHT, WRONG
from evaluation.runs.folder import SCORES_FILE, Run, find_runs, read_run
from evaluation.runs.rows import ScoreRow
from evaluation.runs.traces import read_previews, read_trace
from evaluation.tables import make_table
from experiments.figures import seeds, strip
from experiments.figures.command import draw, main
from tests.experiments.figures.shared import OUTCOMES, list_texts
from tests.lab import Lab
from tests.written_runs import DM, write_run


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


def test_pictures_of_real_runs(sampled: Lab) -> None:
    runs = [read_run(folder) for folder in find_runs([sampled.runs])]
    trio = seeds.choose_trio(runs)
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
        assert [shot[0].image.prompt for shot in seeds.collect_shots(outcomes, 5)] == wanted
        assert {shot.right for shot in seeds.collect_shots(outcomes, 1)[0]} == {bool(right)}

    figure = seeds.draw_figure(judge(trio, [[1, 0, 1], [0, 0, 0], [1, 1, 1]]), 2)
    words = list_texts(figure)
    assert [word for word in words if word[0] in "✓✗"].count("✗ the dog is a cat") == 2
    frames = [
        to_hex(axes.spines["left"].get_edgecolor())
        for axes in figure.axes
        if axes.spines["left"].get_visible() and axes.spines["left"].get_linewidth() > 2
    ]
    assert frames == [RIGHT, WRONG, RIGHT] * 2
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    way = read_trace(strip.trace_file(asyn, asyn.images[0]))
    with Image.open(asyn.folder / asyn.images[0].file) as picture:
        for wanted_picture in (picture.convert("RGB"), way.maps[1], way.masks[1]):
            assert any(np.array_equal(one, np.asarray(wanted_picture)) for one in shown)
    assert any("never chosen by outcome" in word for word in words)

    run, image = strip.choose_picture(runs)
    assert run.folder == asyn.folder and image == asyn.images[0]
    figure = strip.draw_figure(run, image)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    frames_of = read_previews(strip.previews_file(run, image), len(way.steps))
    expected = [np.asarray(cell) for cell in (*way.maps, *way.masks, *frames_of)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=False))
    assert {"1", "2", "dog", "cat"} <= set(list_texts(figure))


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
