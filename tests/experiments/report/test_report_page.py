"""The report's figures and page, of real runs, by the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.report.command import main
from tests.lab import Lab


def test_a_report_with_everything(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab(
        "-m",
        "mask=none,global,dynamic",
        "num_inference_steps=2,3,5",
        "images_per_prompt=2",
        "+metric.brightness._target_=tests.experiments.metrics.Brightness",
    )
    page, figures = lab.folder / "page", lab.folder / "figures"
    assert main([str(lab.runs), "--html", str(page), "--figures", str(figures)]) == 0
    said = capsys.readouterr()
    assert said.out.endswith(f"{page / 'index.html'}\n") and not said.err
    drawn = {path.name for path in figures.iterdir()}
    assert drawn == {
        f"{name}.{end}"
        for name in ("curves", "lines_steps", "cost", "seeds", "strip")
        for end in ("png", "svg")
    }
    text = (page / "index.html").read_text()
    assert {path.suffix for path in (page / "figures").iterdir()} == {".svg"}
    assert text.count("<figure") == len(drawn) / 2
    assert "<h1>runs</h1>" in text and "By prompt kind" in text and "brightness \u2191" in text
    assert len(list((page / "pictures").iterdir())) == len(
        {path.read_bytes() for path in lab.runs.glob("*/images/*.png")}
    )
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)


def test_a_page_of_an_unscored_run_shows_its_pictures(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("mask=dynamic")
    page = lab.folder / "page"
    assert main([str(lab.runs), "--html", str(page)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told and all(line.startswith("not drawn: ") for line in told)
    assert len(list((page / "pictures").iterdir())) == 3


@pytest.mark.parametrize("option", ["--html", "--figures", "--csv", "--markdown", "--latex"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_drawn(
    option: str, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("mask=none", "pictures=0")
    blocked = lab.folder / "file"
    blocked.write_text("")
    capsys.readouterr()
    assert main([str(lab.runs), option, str(blocked / "below")]) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {option} {blocked / 'below'}: ") and line.endswith(
        "choose another place"
    )
    assert not said.out


def test_a_title_names_the_experiment_or_the_folders(tmp_path: Path) -> None:
    from experiments.report.command import title

    assert title(["experiment=steps", "limit=4"]) == "steps"
    assert title([str(tmp_path / "a"), str(tmp_path / "b")]) == "a, b"
    assert title(["mask=none", "eta=0"]) == "mask=none, eta=0"
