"""Reports by the command line: of runs as files, and of real ones."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from evaluation.runs.folder import SCORES_FILE, find_runs, read_run
from evaluation.tables import make_table
from experiments.report.command import main, make_title
from tests.lab import Lab
from tests.written_runs import ASYNDM, DM, STATIC, change_kinds, write_run


def test_the_command_prints_and_writes_partial_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "dm", [1, None, 1], DM)
    write_run(tmp_path / "runs", "asyn", [0, 1, 1], ASYNDM)
    paths = tmp_path / "t.csv", tmp_path / "t.md"
    assert main([str(tmp_path / "runs"), "--csv", str(paths[0]), "--markdown", str(paths[1])]) == 0
    out = capsys.readouterr().out
    assert paths[1].read_text() == out
    assert "| -0.500 [" in out and "| 0-1-1 " in out and "Not finished: dm." in out
    assert len({len(line) for line in out.splitlines() if line.startswith("|")}) == 1
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["n"], row["difference"]) for row in rows] == [
        ("DM", "2", ""),
        ("AsynDM", "3", "-0.5"),
    ]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b"\xff"),
        ("run.json", b'{"schema_version": 1, "config": {}, "identity": {}, "timings": {}}'),
        ("images.csv", b"\xff"),
        ("scores.csv", b"run_id\n1,2,3\n"),
        ("prompts.json", b"[{}]"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes
) -> None:
    write_run(tmp_path, "dm", [1], DM)
    write_run(tmp_path, "asyn", [1], ASYNDM)
    (tmp_path / "asyn" / file).write_bytes(content)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "| DM " in said.out and "| AsynDM " not in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("warning: left out: ") and f"asyn/{file}" in line


def test_unknown_metrics_and_unwritable_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "dm", [1], DM)
    assert main([str(tmp_path), "--metric", "clip"]) == 1
    assert "--metric clip: no such scores; there are exact" in capsys.readouterr().err
    assert main([str(tmp_path), "--csv", str(tmp_path / "dm" / "run.json" / "t.csv")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_latex_table_says_what_the_markdown_table_says(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1.0, 0.0, 1.0, 0.0], DM)
    write_run(tmp_path, "asyn", [0.0, 0.0, 1.0, 0.0], ASYNDM)
    out = tmp_path / "table.tex"
    assert main([str(tmp_path), "--latex", str(out), "--markdown", str(tmp_path / "table.md")]) == 0
    written = out.read_text().splitlines()
    end = written.index(r"\end{tabular}")
    lines, said = written[:end], written[end + 1 :]
    assert lines[1] == r"\toprule" and said[-1].startswith(
        r"\par\smallskip{\footnotesize 95 \% intervals"
    )
    assert (
        said[0]
        == r"\par\smallskip{\footnotesize Every row: 4 images, of 4 prompts and 1 seed.\par}"
    )
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
    assert lines[0] == rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
    plain = [
        [cell.replace("$-$", "-").replace(r"$\uparrow$", "↑").replace("\\", "") for cell in row]
        for row in rows
    ]
    markdown = (tmp_path / "table.md").read_text().splitlines()
    told = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown
        if line.startswith("|")
    ]
    assert plain == [told[0], *told[2:]] and any("$-$0.25" in cell for cell in rows[2])


def test_rows_are_compared_with_what_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "dm", [1.0, 0.0, 1.0, 0.0], DM)
    write_run(tmp_path, "found", [1.0, 1.0, 1.0, 0.0], ASYNDM)
    write_run(tmp_path, "once", [0.0, 0.0, 1.0, 0.0], STATIC)
    assert main([str(tmp_path), "--against", "method=AsynDM"]) == 0
    told = capsys.readouterr().out
    (row,) = [line for line in told.splitlines() if "AsynDM_static" in line]
    assert "difference from method=AsynDM [95 %]" in told and "-0.500 [" in row and "0-2-2" in row
    rows = make_table(map(read_run, find_runs([tmp_path])), against=[("method", "AsynDM")])
    assert [(row["method"], row["pairs"]) for row in rows] == [
        ("DM", None),
        ("AsynDM", None),
        ("AsynDM_static", 4),
    ]
    for words, wanted in (
        ("method=Asyn", "--against method=Asyn: no such row; there are DM, AsynDM, AsynDM_static"),
        ("colour=red", "--against colour=red: no such column; there are method, curve,"),
        ("method=DM steps=20", "--against steps=20: no such row of method=DM; there are 10"),
        ("method=DM method=AsynDM", "--against method=DM: given twice; a row has one method"),
    ):
        given = [text for word in words.split() for text in ("--against", word)]
        assert main([str(tmp_path), *given]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {wanted}")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--against", "guidance"])
    assert "'guidance' is not COLUMN=VALUE" in capsys.readouterr().err


def test_rows_are_compared_with_one_that_has_several_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guidance = {"_target_": "mine.Own", "guidance_scale": 5.0}
    write_run(tmp_path, "dm", [1.0, 0.0, 1.0, 0.0], DM)
    write_run(
        tmp_path, "own", [1.0, 1.0, 1.0, 0.0], ASYNDM, guidance=guidance, num_inference_steps=4
    )
    words = ["--against", "method=DM", "--against", "guidance=5"]
    assert main([str(tmp_path), *words]) == 0
    told = capsys.readouterr().out
    assert "No differences from method=DM, guidance=5: no row is alike in all else;" in told
    assert main([str(tmp_path), *words, "--against", "steps=10"]) == 0
    told = capsys.readouterr().out
    assert "difference from method=DM, guidance=5, steps=10 [95 %]" in told
    assert "| +0.250 [" in told and "| 1-3-0 " in told and "No differences" not in told


def test_a_folder_is_no_place_for_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "dm", [1.0], DM)
    assert main([str(tmp_path / "runs"), "--csv", str(tmp_path)]) == 1
    assert f"--csv {tmp_path}: a folder; name a file in it" in capsys.readouterr().err


@pytest.mark.fault(
    what="pictures of which only some have a kind, with `--by kind`",
    kind="a total that leaves out some without a word",
    now="a note says how many have none",
)
def test_pictures_without_a_kind_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "dm", [1, 0, 1, 1], DM)
    change_kinds(tmp_path / "runs" / "dm", ["a", "b", "", ""])
    note = "2 of 4 images have no kind: in no kind's row, and not in the mean of kinds."
    assert main([str(tmp_path / "runs"), "--by", "kind"]) == 0
    assert note in capsys.readouterr().out
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "page")]) == 0
    assert note not in capsys.readouterr().out
    assert unescape((tmp_path / "page" / "index.html").read_text()).count(note) == 1


@pytest.mark.fault(
    what="prompts of which one kind has more than another, as GenEval's",
    kind="a published number that is nowhere",
    now="--by kind has a row for the mean over kinds, with its interval and difference, in every "
    "format",
)
def test_the_mean_over_kinds_is_told_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, right, method in (("dm", [1, 1, 1, 0], DM), ("asyn", [1, 0, 1, 1], ASYNDM)):
        write_run(tmp_path / "runs", name, list(map(float, right)), method)
        change_kinds(tmp_path / "runs" / name, ["single"] * 3 + ["pair"])
    files = {name: tmp_path / f"t.{name}" for name in ("csv", "latex")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert main([str(tmp_path / "runs"), "--by", "kind", *options]) == 0
    out = capsys.readouterr().out
    (dm, asyn) = [
        line for line in out.splitlines() if "mean of kinds" in line and line.startswith("|")
    ]
    assert "| 0.500 [" in dm and "| 0.833 [" in asyn and "| +0.333 [" in asyn
    assert "The mean of kinds is unweighted" in out
    with files["csv"].open() as file:
        (row,) = [
            row
            for row in csv.DictReader(file)
            if (row["method"], row["kind"]) == ("AsynDM", "mean of kinds")
        ]
    assert float(row["score"]) == pytest.approx(5 / 6)
    assert float(row["difference"]) == pytest.approx(1 / 3)
    assert " & mean of kinds & " in files["latex"].read_text()


@pytest.mark.parametrize("option", ["--html", "--figures", "--csv", "--markdown", "--latex"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_drawn(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "dm", [1, 0], DM)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([str(tmp_path / "runs"), option, str(blocked / "below")]) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {option} {blocked / 'below'}: ")
    assert line.endswith("choose another place")
    assert not said.out


def test_a_title_names_the_experiment_or_the_folders(tmp_path: Path) -> None:
    assert make_title(["experiment=steps", "limit=4"]) == "steps"
    assert make_title([str(tmp_path / "a"), str(tmp_path / "b")]) == "a, b"
    assert make_title(["mask=none", "eta=0"]) == "mask=none, eta=0"


def test_real_runs_are_reported(sampled: Lab) -> None:
    rows = make_table(map(read_run, find_runs([sampled.runs])))
    assert [row["method"] for row in rows if row["steps"] == 2] == ["DM", "DM_concave", "AsynDM"]
    assert [row["pairs"] for row in rows] == [None, 3, 3] * 3
    assert [row["evaluations"] for row in rows] == [4] * 3 + [6] * 3 + [10] * 3, "counted, guided"


def test_runs_are_found_by_the_words_they_were_made_with(
    sampled: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sampled.arguments("mask=none,dynamic", "num_inference_steps=7,8")) == 1
    said = capsys.readouterr().err
    assert (
        "none of its 4 runs are there; make them with python -m experiments.run -m model=folder"
        in said
    )
    words = sampled.arguments("mask=none,dynamic", "num_inference_steps=2,7")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "| DM " in out and "| AsynDM " in out and "DM_concave" not in out
    assert "Not made yet: folder-DM-7, folder-AsynDM-quadratic-0.5-7." in out
    assert main([str(sampled.runs), "metric=exact"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("error: metric=exact: a setting beside a folder (")
        and said.count("\n") == 1
    )
    assert main([*words, "et=3"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_report_with_everything(
    sampled: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "page", tmp_path / "figures"
    assert main([str(sampled.runs), "--html", str(page), "--figures", str(figures)]) == 0
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
        {path.read_bytes() for path in sampled.runs.glob("*/images/*.png")}
    )
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)


def test_a_page_of_an_unscored_run_shows_its_pictures(
    sampled: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = sampled.runs.glob("*-AsynDM-*-2-*")
    shutil.copytree(folder, tmp_path / "a", ignore=shutil.ignore_patterns(SCORES_FILE))
    page = tmp_path / "page"
    assert main([str(tmp_path / "a"), "--html", str(page)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told and all(line.startswith("not drawn: ") for line in told)
    assert len(list((page / "pictures").iterdir())) == 3
