"""A table for a terminal that it does not fit: what all rows share above it, each row on as many
lines as it takes."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

from evaluation.table_text import Layout

GAP, INDENT = "  ", "    "
LEAST = 40
"""Columns that no table is squeezed below."""


def measure_terminal() -> int | None:
    """The columns of the terminal that is printed to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def to_narrow(layout: Layout, notes: Sequence[str], width: int) -> str:
    """The table and its notes with no line wider than `width`, and at least `LEAST`.

    Columns that are the same in all of several rows are told once. The others stand below each
    other as far as they fit a line; the rest of a row follows, indented, on lines of their own, and
    is left out where it is empty. What stands out has a star.
    """
    width = max(width, LEAST)
    starred = {(i, j): re.sub(r"^\S+", r"\g<0>*", layout.body[i][j]) for i, j in layout.bold}
    body = [
        [starred.get((i, j), cell) for j, cell in enumerate(row)]
        for i, row in enumerate(layout.body)
    ]
    columns = [list(column) for column in zip(layout.heads, *body, strict=True)]
    shared = [column for column in columns if len(body) > 1 and len(set(column[1:])) == 1]
    told = ", ".join(f"{head} {value}" for head, value, *_ in shared)
    groups = _join_columns([column for column in columns if column not in shared], width)
    head, *rows = ([group[i] for group in groups] for i in range(len(body) + 1))
    lines = _break_row(head, width)
    paragraphs = [f"In all rows: {told}."] if told else []
    said = [textwrap.fill(text, width) for text in (*paragraphs, *notes)]
    below = [line for row in rows for line in _break_row(row, width)]
    table = [*lines, "-" * max(map(len, (*lines, *below))), *below]
    first, rest = (said[:1], said[1:]) if told else ([], said)
    return "\n\n".join([*first, "\n".join(table), *rest]) + "\n"


def _join_columns(columns: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The columns that share a line, each such group as the text of its part of every row."""
    groups: list[list[str]] = []
    for column in columns:
        cells = [cell.ljust(max(map(len, column))) for cell in column]
        joined = (
            [f"{before}{GAP}{cell}" for before, cell in zip(groups[-1], cells, strict=True)]
            if groups
            else []
        )
        if joined and len(joined[0]) <= width:
            groups[-1] = joined
        else:
            groups.append([f"{INDENT if groups else ''}{cell}" for cell in cells])
    return groups


def _break_row(groups: Sequence[str], width: int) -> list[str]:
    """A row's lines: the first always, others where they say something."""
    whole = [text.rstrip() for i, text in enumerate(groups) if not i or text.strip()]
    return [
        line
        for text in whole
        for line in (
            textwrap.wrap(text, width, subsequent_indent=INDENT * 2)
            if len(text) > width
            else [text]
        )
    ]
