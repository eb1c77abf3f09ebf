"""Scoring what is there: runs and folders, without sampling."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from asyndm.errors import UserError
from asyndm.shapes.render import render
from asyndm.shapes.world import Spec, Thing
from evaluation.metrics import Score
from evaluation.runs.files import write_json
from evaluation.runs.folder import BASES_FILE, SCORES_FILE, read_run
from evaluation.runs.prompts import Prompt
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ScoreRow
from evaluation.score import main
from tests.experiments.breaking import obey_permissions
from tests.experiments.metrics import Brightness
from tests.lab import Lab

BRIGHTNESS = ["metric=none", "+metric.brightness._target_=tests.experiments.metrics.Brightness"]


def read_scores(folder: Path) -> dict[str, float | None]:
    return {
        f"{r.prompt_id}#{r.image_index}": r.value for r in read_rows(folder / SCORES_FILE, ScoreRow)
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them broken, and their prompts."""
    for i, grey in enumerate((0, 51, 255)):
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:40])
    (tmp_path / "prompts.csv").write_text(
        "file,text,kind,phrases\n"
        "0.png,a dog,pair,a dog;a cat\n"
        "1.png,a dog,pair,\n"
        "2.png,a cat,pair,\n"
    )
    return tmp_path


def test_any_folder_with_a_list_is_scored_and_a_broken_picture_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(folder),
        "--prompts",
        str(folder / "prompts.csv"),
        *BRIGHTNESS,
        "--batch-size",
        "2",
    ]
    assert main(arguments) == 0
    assert "brightness 0.1000  2 of 3 pictures, 3 new" in capsys.readouterr().out
    written = read_rows(folder / SCORES_FILE, ScoreRow)
    assert [row.value for row in written] == [0.0, 0.2, None]
    assert written[2].reason.startswith("not a readable picture") and [
        row.prompt_id[:6] for row in written
    ] == ["0-png-", "1-png-", "2-png-"]
    before = (folder / SCORES_FILE).read_text()
    assert main(arguments) == 0
    assert "0 new" in capsys.readouterr().out and (folder / SCORES_FILE).read_text() == before


def test_only_what_is_new_is_added(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]
    assert main(arguments) == 0
    text = (folder / SCORES_FILE).read_text().replace(",0.2,", ",0.7,")
    (folder / SCORES_FILE).write_text(text)
    Image.new("RGB", (8, 8), "white").save(folder / "3.png")
    with (folder / "prompts.csv").open("a") as file:
        file.write("3.png,a dog,pair,\n")
    assert main(arguments) == 0
    assert [row.value for row in read_rows(folder / SCORES_FILE, ScoreRow)] == [0.0, 0.7, None, 1.0]
    assert "1 new" in capsys.readouterr().out


def test_what_older_scores_do_not_count_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = Spec("two", (Thing("red", "circle"), Thing("blue", "square")))
    (pixels,) = render([drawn], torch.Generator().manual_seed(0)).images.permute(0, 2, 3, 1)
    picture = Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())
    asked = ("a red circle and a blue square", "a red circle", "a yellow star")
    for i in range(len(asked)):
        picture.save(tmp_path / f"{i}.png")
    listed = [f"{i}.png,{text}\n" for i, text in enumerate(asked)]
    (tmp_path / "prompts.csv").write_text("file,text\n" + "".join(listed))
    arguments = [str(tmp_path), "--prompts", str(tmp_path / "prompts.csv"), "metric=exact"]
    assert main(arguments) == 0
    right, path = (tmp_path / SCORES_FILE).read_text(), tmp_path / SCORES_FILE
    rows = read_rows(path, ScoreRow)
    assert [row.counts for row in rows] == [
        {"surplus": surplus, "missing": 0} for surplus in (0, 1, 1)
    ]
    assert "exact 0.3333  exact_surplus 0.6667  exact_missing 0.0000" in capsys.readouterr().out
    older = [replace(row, surplus=None, missing=None) for row in rows]
    write_rows(path, ScoreRow, [older[0], replace(older[1], surplus=1), rows[2]])
    assert main(arguments) == 0 and path.read_text() == right
    assert "3 of 3 pictures, 2 new" in capsys.readouterr().out
    write_rows(path, ScoreRow, older)
    write_json(tmp_path / BASES_FILE, {"exact": {"version": 0}})
    assert main(arguments) == 1 and read_rows(path, ScoreRow) == older


def test_a_run_is_scored_as_the_laboratory_scores_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("-m", "mask=none,global")
    assert not list(lab.runs.rglob(SCORES_FILE)) or all(
        not read_scores(p.parent) for p in lab.runs.rglob(SCORES_FILE)
    )
    assert main([str(lab.runs), *BRIGHTNESS]) == 0
    ours = {path.parent.name: read_scores(path.parent) for path in lab.runs.rglob(SCORES_FILE)}
    assert len(ours) == 2 and all(len(found) == 3 for found in ours.values())
    assert read_run(next(lab.runs.glob("*-DM-*"))).record["metrics"] == {
        "brightness": {"version": 1, "higher_is_better": True}
    }
    result = lab("-m", "mask=none,global", BRIGHTNESS[1])
    assert result.out.count("  found  ") == 2
    for path in lab.runs.rglob(SCORES_FILE):
        path.unlink()
    lab("-m", "mask=none,global", BRIGHTNESS[1])
    assert {
        path.parent.name: read_scores(path.parent) for path in lab.runs.rglob(SCORES_FILE)
    } == ours


def test_scores_on_another_basis_are_left_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("-m", "mask=none,global", BRIGHTNESS[1])
    first, second = sorted(lab.runs.glob("*-DM*"))
    (second / SCORES_FILE).unlink()
    before = (first / SCORES_FILE).read_text()
    monkeypatch.setattr(Brightness, "version", 2)
    capsys.readouterr()
    assert main([str(lab.runs), *BRIGHTNESS]) == 1
    said = capsys.readouterr()
    assert (
        "rest on something else ({'version': 1, 'higher_is_better': True})" in said.err
        and (first / SCORES_FILE).read_text() == before
    )
    assert len(read_scores(second)) == 3 and read_run(second).record["metrics"] == {
        "brightness": {"version": 2, "higher_is_better": True}
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none", *BRIGHTNESS], "none: no such folder"),
        (["{folder}", *BRIGHTNESS], "no runs there; for a folder of pictures give --prompts CSV"),
        (["{folder}", "metric=none"], "error: metric=none: nothing to do"),
        (["{folder}", "metric=[]"], "error: metric=[]: nothing to do; choose a metric"),
        (["{folder}", "~metric"], "error: ~metric: nothing to do; choose a metric"),
        (["{folder}", "metric.exact=null"], "error: metric.exact=null: nothing to do"),
        (["{folder}", "metric=foo"], "metric=foo: no such choice; choose from"),
        (["{folder}", *BRIGHTNESS, "--prompts", "{folder}/none.csv"], "none.csv: no such file"),
        (["{folder}", *BRIGHTNESS, "--prompts", "{folder}/empty.csv"], "empty.csv: no rows"),
        (
            ["{folder}", *BRIGHTNESS, "--prompts", "{folder}/half.csv"],
            "half.csv, line 3: needs file and text",
        ),
        (
            ["{folder}", *BRIGHTNESS, "--prompts", "{folder}/lost.csv"],
            "lost.csv: none of its files is in",
        ),
        (["{folder}", *BRIGHTNESS, "--prompts", "{folder}/binary.csv"], "binary.csv, line"),
        (
            ["{folder}", *BRIGHTNESS, "--prompts", "{folder}/ragged.csv"],
            "ragged.csv, line 3: 2 columns expected",
        ),
        (
            ["{folder}", *BRIGHTNESS, "columns.text=Title"],
            "columns.text: is of a list; give --prompts CSV as well",
        ),
        (
            ["{folder}", *BRIGHTNESS, "columns.seed=x", "--prompts", "{folder}/bare.csv"],
            "columns.seed=x: no such column; choose from columns.file, columns.text, ",
        ),
        (["{folder}", "columns=Title"], "error: columns=Title: no such column; choose from"),
        (
            ["{folder}", "columns.txt=Title"],
            "error: columns.txt=Title: no such column (did you mean columns.text?); choose from",
        ),
        (["{folder}", "~columns"], "error: ~columns: no such column; choose from"),
        (
            ["{folder}", *BRIGHTNESS, "columns.text=[a,b]", "--prompts", "{folder}/bare.csv"],
            "columns.text=['a', 'b']: give the name of a column",
        ),
        (["{folder}", *BRIGHTNESS, "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (
            [
                "{folder}",
                "metric=blip_vqa",
                "metric.blip_vqa.model=x.pth",
                "--prompts",
                "{folder}/bare.csv",
            ],
            "metric blip_vqa: prompt 'a cat' has no phrases to ask about, nor has any other",
        ),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "empty.csv").write_text("file,text\n")
    (folder / "half.csv").write_text("file,text\n0.png,a dog\n1.png,\n")
    (folder / "bare.csv").write_text("file,text\n0.png,a cat\n")
    (folder / "lost.csv").write_text("file,text\n9.png,a dog\n")
    (folder / "ragged.csv").write_text("file,text\n0.png,a dog\n1.png\n")
    (folder / "binary.csv").write_bytes(b"file,text\n\xff\xfe,x\n")
    assert main([argument.format(folder=folder) for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not (folder / SCORES_FILE).exists() and not (folder / "metrics.json").exists()


def test_the_folder_alone_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "the following arguments are required: folder;" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--batch-size N pictures a metric sees" in " ".join(capsys.readouterr().out.split())


def test_the_record_of_a_folder_says_what_its_scores_rest_on(folder: Path) -> None:
    main([str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS])
    assert json.loads((folder / "metrics.json").read_text()) == {
        "brightness": {"version": 1, "higher_is_better": True}
    }


class Counting(Brightness):
    """Says how often it was loaded and let go."""

    events: ClassVar[list[str]] = []

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Score]:
        if self.events[-1:] != ["loaded"]:
            self.events.append("loaded")
        return super().score(images, prompts)

    def release(self) -> bool:
        self.events.append("let go")
        return True


class Refusing(Brightness):
    """Has no weights."""

    name = "refusing"

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        raise UserError("metric refusing: no weights")


class Interrupted(Brightness):
    """Is interrupted at its second batch."""

    batches: ClassVar[int] = 0

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Score]:
        type(self).batches += 1
        if self.batches == 2:
            raise KeyboardInterrupt
        return super().score(images, prompts)


def choose_metric(metric: type[Brightness]) -> str:
    return f"+metric.{metric.__name__.lower()}._target_={metric.__module__}.{metric.__name__}"


def test_a_network_is_loaded_once_for_all_runs(lab: Lab) -> None:
    lab("-m", "mask=none,global")
    Counting.events.clear()
    assert main([str(lab.runs), "metric=none", choose_metric(Counting)]) == 0
    assert Counting.events == ["loaded", "let go"]


def test_a_metric_or_run_that_fails_leaves_the_others(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("-m", "mask=none,global")
    first, second = sorted(lab.runs.glob("*-DM*"))
    (first / "prompts.json").unlink()
    capsys.readouterr()
    assert main([str(lab.runs), "metric=none", choose_metric(Refusing), BRIGHTNESS[1]]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (
        len(lines) == 2
        and "prompts.json" in lines[0]
        and lines[1] == "error: metric refusing: no weights"
    )
    assert not read_scores(first) and len(read_scores(second)) == 3


def test_an_interrupted_scoring_keeps_its_rows_and_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(folder),
        "--prompts",
        str(folder / "prompts.csv"),
        "metric=none",
        choose_metric(Interrupted),
    ]
    assert main([*arguments, "--batch-size", "1"]) == 130
    assert (
        "interrupted; the same command goes on" in capsys.readouterr().err
        and len(read_scores(folder)) == 1
    )
    assert main(arguments) == 0
    assert "2 of 3 pictures, 2 new" in capsys.readouterr().out


def test_a_changed_picture_or_text_is_another_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]
    assert main(arguments) == 0
    Image.new("RGB", (8, 8), "white").save(folder / "2.png")
    (folder / "prompts.csv").write_text(
        "file,text,kind\n2.png,a cat,pair\n1.png,a frog,pair\nnone.png,x,y\n"
    )
    capsys.readouterr()
    assert main(arguments) == 0
    assert "brightness 0.6000  2 of 3 pictures, 3 new" in capsys.readouterr().out
    written = read_rows(folder / SCORES_FILE, ScoreRow)
    assert [row.value for row in written] == [0.0, 0.2, None, 1.0, 0.2, None]
    assert written[5].reason.startswith("not a readable picture")


def test_a_score_that_is_no_number_is_told_kept_beside_and_made_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]
    assert main(arguments) == 0
    path = folder / SCORES_FILE
    whole = path.read_text()
    path.write_text(whole.replace(",0.2,", ",nan,"))
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "scores.csv, line 3: not a row" in said and "kept as scores.csv.bak" in said
    assert ",nan," in (folder / "scores.csv.bak").read_text() and path.read_text() == whole


@pytest.mark.fault(
    what="a pipe among the pictures of a folder to be scored",
    kind="names that are no files",
    now="a row without value, whose reason says what it is; the other pictures are scored",
)
def test_a_pipe_is_no_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]
    signal.alarm(60)
    try:
        assert main(arguments) == 0
    finally:
        signal.alarm(0)
    assert "1 of 3 pictures, 3 new" in capsys.readouterr().out
    pipe = read_rows(folder / SCORES_FILE, ScoreRow)[1]
    assert pipe.value is None and pipe.reason.endswith("1.png: a pipe, not a file; move it away)")


def test_rows_of_other_metrics_that_cannot_be_read_are_kept_beside(folder: Path) -> None:
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]
    assert main(arguments) == 0
    path = folder / SCORES_FILE
    whole = path.read_text()
    path.write_text(f"{whole}r,p,0,other,high,\n")
    assert main(arguments) == 0
    assert path.read_text() == whole and "other,high" in (folder / "scores.csv.bak").read_text()


@pytest.mark.fault(
    what="a list of pictures with a column of another name (`img,txt`)",
    kind="lists as people have them",
    now="`columns.text=txt` names it for `evaluation.score`",
)
def test_columns_of_another_name_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "l.csv").write_text("img,txt,sort\n0.png,a dog,pair\n")
    arguments = [str(folder), "--prompts", str(folder / "l.csv"), *BRIGHTNESS]
    assert main(arguments) == 1 and "columns.text=txt; if not," in capsys.readouterr().err
    assert main([*arguments, "columns.text=txt", "columns.kind=sort"]) == 0
    assert "1 of 1 pictures, 1 new" in capsys.readouterr().out


@pytest.mark.fault(
    what="pictures to score in a folder that is read-only",
    kind="disks that can only be read",
    now="one line that says so, before a network is loaded; what is scored already is told",
)
def test_a_read_only_folder_is_told_before_anything_is_scored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--prompts", str(folder / "prompts.csv"), *BRIGHTNESS]

    def score_obeying() -> int:
        obey_permissions()  # of this thread alone
        return main(arguments)

    def told() -> tuple[int, str, str]:
        folder.chmod(0o555)
        with ThreadPoolExecutor(1) as pool:
            status = pool.submit(score_obeying).result()
        folder.chmod(0o755)
        said = capsys.readouterr()
        return status, said.out, said.err

    status, _, error = told()
    assert (
        status == 1 and error.startswith(f"error: {folder}: read-only, ") and error.count("\n") == 1
    )
    assert not (folder / SCORES_FILE).exists() and main(arguments) == 0
    capsys.readouterr()
    assert told()[:2] == (0, f"{folder}  brightness 0.1000  2 of 3 pictures, 0 new\n")
