"""Text files as people save them: what is at their path, and how it is encoded."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.pictures import read_pictures
from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.geneval import GenEvalPrompts
from evaluation.runs.prompts.rows import SUFFIXES
from evaluation.runs.prompts.sets import ReferencePrompts
from evaluation.runs.prompts.subjects import WordList
from tests.evaluation.runs.prompts.lists import CAT, load


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.xlsx", b"PK\x03\x04\xff", "p.xlsx: a list ends in .*, .txt; export it as CSV"),
        ("p.parquet", b"PAR1\x15\xff", "p.parquet: a list ends in .*; export it as CSV"),
        ("p.csv.gz", b"\x1f\x8b\x08", "p.csv.gz: a list ends in .*; unpack it"),
        ("p", b"\xff", "p: a list ends in .*; export it as CSV"),
        (
            "p.csv",
            b"PK\x03\x04\xff",
            "p.csv: a workbook or another archive, not text; export it as CSV",
        ),
        ("p.tsv", b"\x1f\x8b\x08", "p.tsv: packed by gzip, not text; .* unpack it"),
    ],
)
@pytest.mark.fault(
    what="a workbook, a Parquet file or a packed table as a list, also by the name of a CSV",
    kind="lists as people have them",
    now="refused by what it is, with what to do",
)
def test_what_is_no_text_is_told_apart(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        read_pictures(tmp_path, tmp_path / name)


def test_an_empty_path_is_told() -> None:
    with pytest.raises(UserError, match="^the path of the prompt file is empty; name a file$"):
        FilePrompts("").load()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_with_a_mark_is_read_as_it_says(tmp_path: Path, encoding: str, end: str) -> None:
    content = end.join(["text,kind", "a cat,pet", "ein Käfer,", ""]).encode(encoding)
    assert [prompt.text for prompt in load(tmp_path, "p.csv", content)] == ["a cat", "ein Käfer"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\nb\nein Käfer\n".encode("latin-1"),
            r"line 3: not UTF-8 text \(byte 0xe4\); save it as UTF-8",
        ),
        ("a\r\ncaf\xe9".encode("latin-1"), "line 2: not UTF-8"),
        ("a\nb\n".encode("utf-16") + b"\0", "line 3: not UTF-16 text"),
        ("a\nb\n".encode("utf-16-le"), "line 1: a NUL, .* save it as UTF-8"),
        (b"a\n\0\n", "line 2: a NUL"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.fault(
    what="a prompt file saved as Latin-1 or as UTF-16",
    kind="encodings",
    now="UTF-16 with its mark is read; else the line of the first bad byte is named",
)
def test_another_encoding_is_told_with_its_line(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=f"p{suffix}, {message}"):
        load(tmp_path, f"p{suffix}", content)


def make_no_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "device":
        return Path("/dev/zero")
    return folder / ("x" * 300) if kind == "name" else path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "nothing", "name"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: FilePrompts(str(path)).load(),
        lambda path: GenEvalPrompts(str(path)).load(),
        lambda path: ReferencePrompts(str(path), str(path)).load(),
        lambda path: WordList(path=str(path)).choose(CAT),
        lambda path: read_pictures(path.parent, path),
    ],
)
@pytest.mark.fault(
    what="a pipe, a device or a folder at the path of a list",
    kind="what is no file",
    now="refused at once, by its name",
)
def test_what_is_no_file_is_refused_by_name(
    tmp_path: Path, read: Callable[[Path], object], kind: str
) -> None:
    path = make_no_file(tmp_path, kind)
    expected = "no such" if kind in ("nothing", "name") else f"a {kind}, not"
    with pytest.raises(UserError, match=f"{path}: {expected}"):
        read(path)
