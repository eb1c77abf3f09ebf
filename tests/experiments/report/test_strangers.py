"""Reports of folders that someone sent: nothing of them is run, steers the terminal or ends in a
traceback."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.messages import describe
from evaluation.runs.files import read_json, write_json
from evaluation.runs.folder import IMAGES_FILE, SCORES_FILE, read_run
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.tables import make_table
from experiments.report.command import main
from tests.written_runs import ASYNDM, DM, write_run


@pytest.mark.fault(
    what="a run.json that names a class of the sender's, lying where Python finds it",
    kind="names in data that are imported",
    now="nothing of it is imported; only what conf or --config-dir offers is looked up",
)
def test_no_class_that_a_record_names_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, name = tmp_path / "MARK", "stranger_of_test_report"
    code = f'open({str(mark)!r}, "w").close()\nclass Shares:\n    """How much."""\n'
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    evil = {"_target_": f"{name}.Shares"}
    write_run(tmp_path / "runs", "dm", [1, 0], DM)
    write_run(tmp_path / "runs", "asyn", [1, 1], {"mask": evil, "curve": evil | {"concavity": 0.5}})
    for run in ("dm", "asyn"):
        record = read_json(tmp_path / "runs" / run / "run.json")
        record["config"] |= {
            "metric": {"exact": evil},
            "mask": evil,
            "guidance": evil,
            "prompt_set": evil,
        }
        record["config"]["prompt_set"] |= {"name": "shapes"}
        write_json(tmp_path / "runs" / run / "run.json", record)
    assert main([str(tmp_path / "runs")]) == 0
    assert "| Shares " in capsys.readouterr().out and not mark.exists() and name not in sys.modules
    offered = tmp_path / "conf" / "metric" / "exact.yaml"
    offered.parent.mkdir(parents=True)
    offered.write_text(f"exact:\n  _target_: {name}.Shares\n")
    assert main([str(tmp_path / "runs"), "--config-dir", str(tmp_path / "conf")]) == 0
    assert "exact: How much." in capsys.readouterr().out and mark.exists()
    assert main([str(tmp_path / "runs"), "--config-dir", str(mark)]) == 1
    assert f"--config-dir {mark}: no such folder" in capsys.readouterr().err


@pytest.mark.fault(
    what="a table of 150 columns on a terminal of 80",
    kind="output that does not fit",
    now="each row on as many lines as it takes, and what all rows share said once",
)
@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_gets_a_table_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    write_run(tmp_path, "dm", [0.0] * 30 + [1.0] * 10, DM)
    write_run(tmp_path, "asyn", [1.0] * 40, ASYNDM)
    assert main([str(tmp_path)]) == 0
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 80
    assert main([str(tmp_path), "--width", str(width)]) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= width
    assert narrow.startswith("In all rows: model tiny, steps 10, metric exact ↑.\n")
    words = set(re.findall(r"[\w+][\w.+]*", narrow))
    assert set(re.findall(r"[\w+][\w.+]*", whole)) <= words and "1.000* [" in narrow
    assert main([str(tmp_path), "--width", "400"]) == 0 and capsys.readouterr().out == whole


@pytest.mark.fault(
    what="kinds, metrics and names of folders with terminal escape codes",
    kind="control characters from files",
    now="spelled out, as ESC is with its hexadecimal code, in tables, notes and warnings",
)
def test_no_escape_code_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red = "\x1b[31mred\x9b0m\u202e"
    write_run(tmp_path, "dm", [1, 0], DM)
    folder = tmp_path / f"asyn{red}"
    write_run(tmp_path, folder.name, [1, None], ASYNDM)
    run = read_run(folder)
    write_rows(
        folder / IMAGES_FILE, ImageRow, [replace(image, kind=f"{red}\nx") for image in run.images]
    )
    write_rows(folder / SCORES_FILE, ScoreRow, [replace(score, metric=red) for score in run.scores])
    write_run(tmp_path, f"lost{red}", [1], ASYNDM, num_inference_steps=red)
    for options in ([], ["--width", "80"], ["--metric", red], ["--metric", f"{red} "]):
        main([str(tmp_path), "--by", "kind", *options])
        said = capsys.readouterr()
        text = said.out + said.err
        assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert r"\x1b[31mred\x9b0m\u202e" in text


@pytest.mark.fault(
    what="numbers in a record or in scores.csv that no table can hold, texts or lists in their "
    "place",
    kind="records that are no records",
    now="the run is left out, its file named in one line",
)
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("identity.num_inference_steps", "1e999"),
        ("identity.num_inference_steps", '"ten"'),
        ("identity.eta", "NaN"),
        ("identity.guidance", '{"guidance_scale": "five"}'),
        ("identity.mask", "[]"),
        ("identity.curve", '"a.b.C"'),
        ("identity.model", '{"dtype": {}}'),
        ("config.model", '{"name": ["tiny"]}'),
        ("config.prompt_set", "null"),
        ("config", "[" * 20_000 + "]" * 20_000),
        ("choices", "[]"),
        ("choices", '{"mask": {"label": ["DM"], "bends": false}}'),
        ("choices", '{"mask": {"label": "DM", "bends": "no"}}'),
        ("choices", '{"guidance": 5}'),
        ("choices", '{"guidance": {"label": "5", "forward": "many"}}'),
        ("choices", '{"guidance": {"label": "5", "forward": 1e999}}'),
        ("choices", '{"guidance": {"label": "5", "forward": 4, "exact": 1}}'),
        ("identity.solver", '"DDIM"'),
        ("identity.solver", '{"_target_": 5}'),
        ("evaluations", '{"rows": 40, "images": 4, "backward": -1}'),
        ("evaluations", "320"),
        ("evaluations", '{"rows": 1e999, "images": 4}'),
        ("evaluations", '{"rows": 40}'),
        ("scores", "1e300"),
    ],
    ids=lambda text: text[:30],
)
def test_absurd_records_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, value: str
) -> None:
    write_run(tmp_path, "dm", [1], DM)
    write_run(tmp_path, "asyn", [1], ASYNDM)
    path = tmp_path / "asyn" / (SCORES_FILE if part == "scores" else "run.json")
    if part == "scores":
        write_rows(path, ScoreRow, [ScoreRow("asyn", "p0", 0, "exact", float(value))])
    else:
        record = read_json(path)
        *parents, last = part.split(".")
        (record[parents[0]] if parents else record)[last] = "@"
        write_json(path, record)
        path.write_text(path.read_text().replace('"@"', value))
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert (
        line.startswith(f"warning: left out: {path}: ")
        and "| DM " in said.out
        and "Asyn" not in said.out
    )


def test_a_score_that_is_there_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "dm", [1, 0, 1, 1], DM)
    path = tmp_path / "dm" / SCORES_FILE
    written = path.read_text()
    path.write_text(written + written.partition("\n")[2])
    (row,) = make_table([read_run(tmp_path / "dm")])
    assert (row["n"], row["score"]) == (4, 0.75)
    path.write_text(written + written.splitlines()[1].replace("1.0", "0.0") + "\n")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "| 0.500 [" in said.out and str(path) in said.err


def test_only_what_steers_a_terminal_is_spelled_out() -> None:
    plain = "\tω ↑ – “猫” é\n"
    assert printable(plain) == plain
    assert (
        printable("\x1b]0;x\x07\x9b1m\r\x7f\u202e\u2066")
        == r"\x1b]0;x\x07\x9b1m\x0d\x7f\u202e\u2066"
    )


def test_no_error_that_is_told_steers_a_terminal() -> None:
    assert describe(UserError("\x1b]0;title\a: no such file")) == "\\x1b]0;title\\x07: no such file"
