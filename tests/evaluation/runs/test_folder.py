"""Files are written whole or not at all, and read back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.files import is_whole_png, write_bytes, write_json
from evaluation.runs.folder import find_runs, read_prompts, read_run, read_state
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ImageRow, ScoreRow

IMAGE = ImageRow(
    "r",
    "p",
    'a "red", dog\nand a cat',
    ("red, dog", 'c"at'),
    "",
    3,
    2**40,
    "images/p_003.png",
    "ab",
)
RECORD = {"schema_version": 1, "config": {}, "identity": {}, "timings": {}}
SCORES = [
    ScoreRow("r", "p", 3, "exact", 0.1 + 0.2, "no, none"),
    ScoreRow("r", "p", 4, "exact", None, "why"),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "images.csv", ImageRow, [IMAGE])
    write_rows(tmp_path / "scores.csv", ScoreRow, SCORES)
    assert read_rows(tmp_path / "images.csv", ImageRow) == [IMAGE]
    assert read_rows(tmp_path / "scores.csv", ScoreRow) == SCORES
    assert read_rows(tmp_path / "none.csv", ScoreRow) == []
    assert {path.name for path in tmp_path.iterdir()} == {"images.csv", "scores.csv"}


@pytest.mark.parametrize("row", [b"r,p,three,exact,1.0,", b"r,p", b"r,p,3,exact,high,"])
def test_a_malformed_row_is_told_with_its_line(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(
        b"run_id,prompt_id,image_index,metric,value,reason\nr,p,0,exact,1.0,\n%b\n" % row
    )
    with pytest.raises(UserError, match=r"scores.csv, line 3: not a row"):
        read_rows(path, ScoreRow)


def test_rows_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_bytes(b"run_id,prompt_id\n\xff\xfe\n")
    with pytest.raises(UserError, match="scores.csv, line .*: not a row"):
        read_rows(tmp_path / "scores.csv", ScoreRow)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_png_without_its_end_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    assert is_whole_png(path)
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        assert not is_whole_png(path)
    assert not is_whole_png(tmp_path / "none.png")


def test_runs_are_found_below_a_folder_once(tmp_path: Path) -> None:
    for name in ("b", "deep/a"):
        write_json(tmp_path / name / "run.json", RECORD)
    runs = [read_run(folder) for folder in find_runs([tmp_path, tmp_path / "b"])]
    assert [run.folder.name for run in runs] == ["b", "a"] and {run.state for run in runs} == {
        "pending"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "run.json: not JSON .*delete it"),
        (b"\xff", "run.json: not JSON"),
        (b"[]", "not the record of a run"),
        (b"{}", "not the record of a run"),
        (json.dumps(RECORD | {"schema_version": "one"}).encode(), "newer"),
        (json.dumps(RECORD | {"identity": []}).encode(), "not the record of a run"),
        (json.dumps(RECORD | {"schema_version": 99}).encode(), "newer"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path)


@pytest.mark.parametrize("text", [b'{"state": "do', b"[]", b"{}", b'{"state": 3}', b"\xff"])
def test_a_broken_state_is_that_of_a_run_to_be_made(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "state.json").write_bytes(text)
    assert read_state(tmp_path) == {"state": "pending"}


@pytest.mark.parametrize("text", [b"\xff", b"{}x", b'[{"prompt_id": "a"}]', b"[1]", b"3"])
def test_broken_prompts_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "prompts.json").write_bytes(text)
    with pytest.raises(UserError, match="prompts.json: not"):
        read_prompts(tmp_path / "prompts.json")
