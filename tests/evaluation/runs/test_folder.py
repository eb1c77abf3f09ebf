"""The folder of a run: its record, state and prompts are read back, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.runs.files import write_json
from evaluation.runs.folder import find_runs, read_prompts, read_run, read_state

RECORD = {"schema_version": 1, "config": {}, "identity": {}, "timings": {}}


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
