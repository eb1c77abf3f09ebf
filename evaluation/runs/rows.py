"""Rows of files that people write: YAML, JSON, JSON lines and CSV, each row with its line, for messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyndm.errors import UserError


def existing(path: str, what: str) -> Path:
    """The file at that path.

    Raises:
        UserError: there is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{path}: no such {what}")
    return file


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark.

    Raises:
        UserError: not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line 1: not UTF-8 text") from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        UserError: not JSON, with its line.
    """
    return _parsed(path, read_text(path))


def _parsed(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise UserError(
            f"{path}, line {first_line}: not a list of prompts (lists in lists in lists)"
        ) from error


def json_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON list, each with the line it begins on."""
    entries = _parsed(path, text)
    if not isinstance(entries, list):
        raise UserError(f"{path}, line 1: expected a list of prompts")
    line, counted, start = 1, 0, text.index("[") + 1
    for entry in entries:
        while text[start] in " \t\r\n,":
            start += 1
        line += text.count("\n", counted, start)
        yield line, entry
        counted, start = start, json.JSONDecoder().raw_decode(text, start)[1]


def yaml_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The entries of a YAML list, each with the line it begins on."""
    import yaml

    line = 1
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise UserError(f"{path}, line 1: expected a list of prompts")
        for node in root.value:
            line = node.start_mark.line + 1
            yield line, _constructed(loader, node, f"{path}, line {line}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}, line {line}: not YAML (the control character {chr(error.character)!r})"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else line
        raise UserError(f"{path}, line {line}: not YAML ({error.problem})") from error


def _constructed(loader: Any, node: Any, place: str) -> Any:
    try:
        return loader.construct_document(node)
    except ValueError as error:
        raise UserError(f"{place}: not YAML ({error})") from error


def jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Every line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parsed(path, line, number)


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV with a header, each a mapping with the line it ends on.

    Raises:
        UserError: a row with more or fewer cells than the header, or an open quote, with its line.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(reader.fieldnames or ())} columns expected"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}; a quote left open?)") from error


def texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, or the same in one cell, separated by ``;``."""
    value = row.get(key) or ()
    items = [part for part in value.split(";") if part.strip()] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise UserError(f"{key} must be a list of texts, not {value!r}")
    return tuple(item.strip() for item in items)


def numbers(row: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """A list of numbers, or the same in one cell, separated by ``;``."""
    value = row.get(key)
    if value in (None, ""):
        return ()
    items = value.split(";") if isinstance(value, str) else value
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} must be a list of numbers, not {value!r}") from error
