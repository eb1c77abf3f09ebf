"""What is told of runs whose files say nonsense, or are no files."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from experiments.status import main as status

NUMBERS = (
    "NaN",
    "1e999",
    "-Infinity",
    "-1",
    "1e308",
    "1e-320",
    '"4"',
    "true",
    "null",
    "[]",
    "9" * 400,
    "9" * 5000,
)
DEEP = "[" * 100_000
STATE = {
    "state": "running",
    "total": 4,
    "made": 3,
    "seconds": 10,
    "loaded": 1,
    "updated": 5,
    "there": 2,
    "part": 4,
}


def read_status(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    capsys.readouterr()
    told = status([str(folder), *options])
    said = capsys.readouterr()
    return told, said.out + said.err


@pytest.mark.fault(
    what="a `state.json` or `shards/*.json` with NaN, endless, negative or enormous totals, or "
    "lists in lists in lists",
    kind="files of a run that say nonsense",
    now="what cannot be is not told, the rest of the table is",
)
def test_nonsense_in_a_state_is_told_of_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a" / "shards").mkdir(parents=True)
    whole, shard = tmp_path / "a" / "state.json", tmp_path / "a" / "shards" / "1-of-2.json"
    (tmp_path / "a" / "shards" / "1-of-99999999999.json").write_text("{}")
    keys = (
        "total",
        "made",
        "seconds",
        "loaded",
        "updated",
        "there",
        "part",
        "log",
        "traceback",
        "state",
    )
    for key, value in product(keys, (*NUMBERS, DEEP)):
        parts = STATE | {key: 0}
        text = json.dumps(parts).replace(f'"{key}": 0', f'"{key}": {value}')
        whole.write_text(text)
        shard.write_text(text)
        for newest in (whole, shard):
            os.utime(newest)
            for options in ([], ["--failed"]):
                told, said = read_status(tmp_path, capsys, *options)
                assert told == 1 and said and "nan" not in said and len(said) < 1000, (
                    key,
                    value[:9],
                    said,
                )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize("name", ["run.json", "state.json", "images.csv"])
@pytest.mark.fault(
    what="a pipe or a folder called `run.json`, `state.json` or `images.csv`",
    kind="files of a run that say nonsense",
    now="one line that names it; neither waited for nor replaced",
)
def test_what_is_no_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Any
) -> None:
    for folder in ("bad", "good"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "state.json").write_text('{"state": "done"}')
    (tmp_path / "bad" / name).unlink(missing_ok=True)
    make(tmp_path / "bad" / name)
    told, said = read_status(tmp_path, capsys)
    assert told == 1 and said.count("\n") == 5 and f"bad/{name}: a " in said and "1 done" in said
    assert read_status(tmp_path / "bad", capsys)[0] == 2


@pytest.mark.parametrize("version", [2, 2.5, "2", "v2", "2.0.1", [2], {"major": 2}, True, 10**400])
def test_a_newer_record_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: Any
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": version}))
    told, said = read_status(tmp_path, capsys)
    assert (
        told == 2 and said.count("\n") == 1 and "is newer than this program's 1; update it" in said
    )


@pytest.mark.fault(
    what="terminal escape codes in a phase, a log or a traceback of `state.json`",
    kind="texts of files that steer the terminal",
    now="are spelled out",
)
def test_texts_of_files_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "\x1b[2J\x1b]0;x\x07 \u202e \x9b31m\nnext\r"
    for name, state in (("a", "running"), ("b", "failed"), ("c", f"done{code}")):
        (tmp_path / name).mkdir()
        content: dict[str, Any] = {
            "state": state,
            "phase": code * 9,
            "log": [code],
            "traceback": code,
            "host": code,
            "pid": code,
        }
        content |= {"updated": 1e14} if name == "a" else {}
        (tmp_path / name / "state.json").write_text(json.dumps(content))
    for options in ([], ["--failed"]):
        _, said = read_status(tmp_path, capsys, *options)
        assert "\\x1b" in said and not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(said)
    assert len(read_status(tmp_path, capsys)[1].splitlines()) == 6
