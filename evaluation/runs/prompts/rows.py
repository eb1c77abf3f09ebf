"""Rows of files that people write: YAML, JSON, JSON lines, CSV, TSV, plain text; each row with its
line, for messages."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.prompts.yaml_rows import read_yaml_rows
from evaluation.runs.text_files import allow_long_cells, parse_json, read_text

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl", ".csv", ".tsv", ".txt")
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""What may part the cells of a row; of equal claims the first holds."""
NAMED = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
SEP = re.compile(r"""(["']?)sep=([^\w\s"']|\t)\1[,;\t ]*(?:\n|\Z)""", re.IGNORECASE)
"""The first line by which a table tells Excel what parts its cells."""
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def read_list_rows(path: Path, known: Callable[[str], bool]) -> Iterator[tuple[int, object]]:
    """The rows of a file, by the ending of its name, each with its line: what YAML and JSON say, a
    mapping for a row of a table, a text for a line.

    Args:
        known: whether a cell of a table's first row is the name of a column. It decides between
            commas, semicolons and tabs.

    Raises:
        UserError: an ending that is none of `SUFFIXES`, or a malformed file, with its line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        remedy = "unpack it" if suffix in PACKED else "export it as CSV"
        raise UserError(f"{path}: a list ends in {', '.join(SUFFIXES)}; {remedy}")
    text = read_text(path)
    match suffix:
        case ".yaml" | ".yml":
            return read_yaml_rows(path, text)
        case ".json":
            return read_json_rows(path, text)
        case ".jsonl":
            return read_jsonl_rows(path, text)
        case ".csv" | ".tsv":
            return read_table_rows(path, text, known)
    return read_text_rows(path, text)


def read_json_rows(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """The entries of a JSON list, each with the line it begins on."""
    entries = parse_json(path, text)
    if not isinstance(entries, list):
        raise UserError(f"{path}, line 1: expected a list of prompts")
    line, counted, start, decoder = 1, 0, text.index("[") + 1, json.JSONDecoder()
    between = re.compile(r"[ \t\n,]*")
    for entry in entries:
        start = between.match(text, start).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, start)
        yield line, entry
        counted, start = start, decoder.raw_decode(text, start)[1]


def read_jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """Every line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, parse_json(path, line, number)


def read_text_rows(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, without blanks around it; a line that stands there again is
    left out, with a warning, as nothing in it could tell the two apart."""
    lines = [
        (number, plain)
        for number, line in enumerate(text.split("\n"), 1)
        if (plain := line.strip())
    ]
    first = {plain: number for number, plain in reversed(lines)}
    if len(first) < len(lines):
        again = f"{len(lines) - len(first)} of {len(lines)} lines"
        warnings.warn(f"{path}: left out {again}, which stand there before", stacklevel=2)
    yield from ((number, plain) for number, plain in lines if first[plain] == number)


def read_table_rows(
    path: Path, text: str, known: Callable[[str], bool]
) -> Iterator[tuple[int, object]]:
    """The rows of a table with a header, each a mapping with the line it begins on; those without
    content are left out.

    Raises:
        UserError: no rows below the header; a row with more or fewer cells than it, two columns of
            one name, or a quote left open, with its line.
    """
    told = SEP.match(text)
    text = f"\n{text[told.end() :]}" if told else text
    first = next((line for line in text.split("\n", 1000) if line.strip()), "")
    claims = DELIMITERS[path.suffix.lower()]
    delimiter = (
        told[2]
        if told
        else max(claims, key=lambda sign: sum(map(known, _split_header(first, sign))))
    )
    lines = _read_cells(path, text, delimiter)
    head_line, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise UserError(f"{path}, line {head_line}: two columns {twice!r}; rename one")
    empty = bool(header)
    for line, cells in lines:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {_explain_uneven(header, cells, delimiter, known)}"
            )
        if any(cells):
            empty = False
            yield line, dict(zip(header, cells, strict=True))
    if empty:
        hint = "" if any(map(known, header)) else "; a list without one ends in .txt"
        raise UserError(f"{path}: no rows below its first line, which is the header{hint}")


def _explain_uneven(
    header: list[str], cells: list[str], delimiter: str, known: Callable[[str], bool]
) -> str:
    """That a row has other cells than the header, and what helps."""
    count = "1 column" if len(header) == 1 else f"{len(header)} columns"
    head = "" if any(map(known, header)) else " by the first line, the header"
    remedy = "leave a cell empty rather than out"
    if len(cells) > len(header):
        remedy = f"quote a text with {NAMED.get(delimiter, delimiter)} in it"
        remedy += (
            ", or save the list as .txt, a prompt a line without header" if len(header) == 1 else ""
        )
    return f"{count} expected{head}, found {len(cells)}; {remedy}"


def _split_header(line: str, delimiter: str) -> list[str]:
    with allow_long_cells():
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _read_cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table that are not blank. Quotes mean what they mean in CSV; where that cannot
    be, as in many a list with tabs, they are text."""
    try:
        yield from _parse_cells(text, delimiter, csv.QUOTE_MINIMAL)
    except _OpenQuote as error:
        if delimiter != "\t":
            raise UserError(
                f"{path}, line {error.args[0]}: not CSV ({error.__cause__}; a quote left open?)"
            ) from error
        yield from _parse_cells(text, delimiter, csv.QUOTE_NONE)


class _OpenQuote(ValueError):
    """A row cannot be parsed, which begins on this line."""


def _parse_cells(text: str, delimiter: str, quoting: Any) -> list[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        skipinitialspace=True,
        strict=True,
    )
    line, rows = 1, []
    try:
        with allow_long_cells():
            for cells in reader:
                if cells:
                    rows.append((line, cells))
                line = reader.line_num + 1
        return rows
    except csv.Error as error:
        raise _OpenQuote(line) from error
