"""Files are written whole or not at all, and opened only where they are files."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.files import (
    hash_file,
    is_whole_png,
    keep_beside,
    read_json,
    write_bytes,
    write_json,
)
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ScoreRow
from evaluation.runs.shared_rows import SharedRows


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"label": "“a dog”", "count": 3, "parts": [0.1, None, True]}
    write_json(tmp_path / "deep" / "a.json", content)
    assert read_json(tmp_path / "deep" / "a.json") == content
    assert (tmp_path / "deep" / "a.json").read_text(encoding="utf-8").endswith("]\n}\n")
    assert hash_file(tmp_path / "deep" / "a.json")[:12] == "31d7ceed6f8f"


def test_a_png_without_its_end_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    assert is_whole_png(path)
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        assert not is_whole_png(path)
    assert not is_whole_png(tmp_path / "none.png")


def test_copies_do_not_replace_each_other(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    for content, name in ((b"a", ".bak"), (b"b", ".bak.1"), (b"a", ".bak"), (b"c", ".bak.2")):
        path.write_bytes(content)
        assert keep_beside(path).name == f"scores.csv{name}"
    assert [p.read_bytes() for p in sorted(tmp_path.glob("*.bak*"))] == [b"a", b"b", b"c"]


@pytest.fixture
def in_time() -> Iterator[None]:
    """Whatever takes longer fails."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        made.bind(path.name)
        os.chdir(here)


STRANGE: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.fault(
    what="a pipe, a socket, a device or a folder by the name of a file of results",
    kind="names that are no files",
    now="one line that says what it is, at once; it is neither read nor replaced",
)
@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.usefixtures("in_time")
def test_what_is_no_file_is_named_at_once(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "scores.csv"
    STRANGE[strange](path)
    readers: list[Callable[[Path], Any]] = [
        lambda path: read_rows(path, ScoreRow),
        lambda path: SharedRows(path, ScoreRow, list),
        read_json,
        hash_file,
        keep_beside,
    ]
    for read in readers:
        with pytest.raises(UserError, match=f"scores.csv: a {strange}, not a file; move it away"):
            read(path)
    assert not is_whole_png(path) and [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.fault(
    what="JSON that is deeper than Python's stack, or says NaN",
    kind="JSON that is none",
    now="one line with the file's name",
)
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 50_000, '{"a": NaN}', "", "1" * 5000, "{'a': 1}"]
)
def test_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a.json: not JSON \(.+\); delete it"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('\ufeff{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
