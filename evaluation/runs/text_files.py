"""Text files that people write: whether there is one, and its text, whatever program saved it."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.files import require_file

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    # before those of UTF-16, with which they begin
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks: how the text behind each is written."""
NO_TEXT = {
    b"PK\x03\x04": "a workbook or another archive",
    b"\xd0\xcf\x11\xe0": "a workbook",
    b"PAR1\x15": "Parquet",
    b"\x1f\x8b": "packed by gzip",
}
"""How files begin that are no text, whatever their names."""
HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""In JSON, a character beyond the first 65,536 is written as two halves."""
LONGEST = 2**31 - 1
"""Characters a cell of a table may have; a prompt has any number."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80
LINE_END = re.compile(rb"\r\n?|\n")


def find_file(path: str | Path, what: str) -> Path:
    """The file at that path.

    Raises:
        UserError: there is none, or it is a folder, a pipe or a device, which might never end.
    """
    if not str(path).strip():
        raise UserError(f"the path of the {what} is empty; name a file")
    try:
        return require_file(Path(path).expanduser(), what, "give a file")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such {what}") from error
    except (OSError, RuntimeError) as error:  # a name too long, a home that nobody has
        raise UserError(
            f"{path}: no such {what} ({getattr(error, 'strerror', None) or error})"
        ) from error


def read_text(path: Path) -> str:
    """A file's text: UTF-8, or what its byte order mark says, without the mark; lines end in a
    newline alone.

    Raises:
        UserError: no text but a workbook or the like; another encoding, with the line of its first
            bad byte.
    """
    raw = path.read_bytes()
    if what := next((what for start, what in NO_TEXT.items() if raw.startswith(start)), None):
        raise UserError(f"{path}: {what}, not text; export it as CSV, or unpack it")
    mark = next((mark for mark in MARKS if raw.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    body = raw[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(LINE_END.findall(body[: error.start].decode(encoding).encode())) + 1
        name = encoding[:6].upper()
        raise UserError(
            f"{path}, line {line}: not {name} text (byte 0x{body[error.start]:02x}); "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = len(LINE_END.findall(text[: text.index("\0")].encode())) + 1
        raise UserError(f"{path}, line {line}: a NUL, which no text has; save it as UTF-8")
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def shorten(value: object) -> str:
    """A value of a file in a message, cut short."""
    return _SHORT.repr(value)


def parse_json(path: Path, text: str, first_line: int = 1) -> Any:
    """What a text in JSON says, which begins on that line of the file.

    Raises:
        UserError: not JSON, with its line.
    """
    try:
        said = json.loads(text)
        if HALF.search(text):
            json.dumps(said, ensure_ascii=False).encode()
        return said
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise UserError(
            f"{path}, line {first_line}: {half} is half a character, which no text has"
        ) from error
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        hint = (
            "; JSON lines end in .jsonl"
            if error.msg == "Extra data" and path.suffix == ".json"
            else ""
        )
        raise UserError(f"{path}, line {line}: not JSON ({error.msg}){hint}") from error
    except RecursionError as error:
        raise UserError(
            f"{path}, line {first_line}: not a list of prompts (lists in lists in lists)"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}, line {first_line}: not JSON ({error})") from error


@contextmanager
def allow_long_cells() -> Iterator[None]:
    """Tables are read whatever the length of their cells."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)
