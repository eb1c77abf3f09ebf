"""Rows in CSV files: as this program writes them, and as people's tables and editors save them.

Commas, semicolons or tabs; any order of columns, and others beside them; a byte order mark, UTF-16,
any line ends; no header, where the columns are as many as they should be; Excel's line that names
the separator. What cannot be read is told with its line, all else is read.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TextIO, TypeVar

from tqdm import tqdm

from asyndm.errors import UserError, read_first_line
from asyndm.terminal import printable
from evaluation.runs.files import require_file, write_bytes
from evaluation.runs.text_files import allow_long_cells

DELIMITERS = ",;\t"
SAMPLE = 20
"""Lines by which a file without names of columns is judged: any of them can be damaged."""
SEPARATOR_LINE = re.compile(r'"?sep=([^"\w])"?', re.IGNORECASE)
"""What Excel wants to be told first."""


class FileRow(Protocol):
    """A dataclass whose fields are the columns of a file."""

    dispensable: ClassVar[tuple[str, ...]]
    """Columns at the end that may be missing, for they are mostly empty, and some programs then
    leave them out."""
    unique: ClassVar[str]
    """A column of which no two places say the same; empty: none."""

    @property
    def place(self) -> Any:
        """Which row of its file it is."""

    def to_cells(self) -> dict[str, str]:
        """What is written."""

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        """The inverse. Raises ValueError or TypeError where they are no such row."""


Row = TypeVar("Row", bound=FileRow)


@dataclass
class Table(Generic[Row]):
    """What a file says.

    Attributes:
        rows: by their place, each once; where several rows of a place say different things, the
            last.
        unread: the first thing that cannot be read, with its line, and how many more there are.
        contradicted: the first place of which rows say different things, and how many more there
            are.
        others: columns that are none of the rows'.
    """

    rows: dict[Any, Row] = field(default_factory=dict)
    unread: str = ""
    contradicted: str = ""
    others: str = ""

    @property
    def lost(self) -> str:
        """What of the file would not be there if these rows were written in its place; nothing if
        all were."""
        return "; ".join(filter(None, (self.unread, self.contradicted, self.others)))


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """`write_bytes` of a CSV with the columns of `kind`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _list_columns(kind), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_cells() for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a CSV, each place once; none if there is no such file. Contradictions are told.

    Raises:
        UserError: a row that cannot be read, with its line, or no file.
    """
    table = read_table(path, kind)
    if table.unread:
        raise UserError(explain_damage(path, table.unread))
    if table.contradicted:
        warn_once(f"{path}, {table.contradicted}")
    return list(table.rows.values())


def explain_damage(path: Path, unread: str) -> str:
    """That a table cannot be read, and what to do."""
    return (
        f"{path}, {unread}; mend it, or move the file away and ask again: "
        "what is missing is made anew"
    )


def read_table(path: Path, kind: type[Row]) -> Table[Row]:
    """All of a CSV that can be read, and what cannot; nothing if there is no such file.

    Raises:
        UserError: no file.
    """
    try:
        require_file(path)
    except FileNotFoundError:
        return Table()
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    with allow_long_cells(), path.open(newline="", encoding=encoding, errors=errors) as text:
        return _read(_Lines(text), kind, path.name)


@cache
def warn_once(text: str) -> None:
    """A warning in one line, the same one once a process."""
    tqdm.write(printable(f"warning: {text}"), file=sys.stderr)


class _Lines:
    """The lines of a file; those of a row that turns out to be none can be had again, and the first
    can be looked at."""

    def __init__(self, file: TextIO) -> None:
        self.number = 0
        self.last = "\n"
        self._file = file
        self._again: deque[str] = deque()
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._taken.append(line)
        self.number += 1
        self.last = line
        return line

    def look(self, count: int) -> list[str]:
        """So many of the next lines, without taking them."""
        found = list(islice(self, count))
        self.rewind()
        return found

    def skip(self, count: int) -> None:
        """Takes so many lines and is done with them."""
        for _ in islice(self, count):
            self.settle()

    def settle(self) -> None:
        """What was taken is done with."""
        self._taken.clear()

    def rewind(self, but: int = 0) -> None:
        """All that was taken can be had again, but for the first so many lines."""
        again = self._taken[but:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        self._taken.clear()


@cache
def _list_columns(kind: type[Any]) -> tuple[str, ...]:
    return tuple(column.name for column in fields(kind))


@dataclass(frozen=True)
class _Form(Generic[Row]):
    """How a file says its rows: what separates the cells, the names of the columns, and whether the
    lines end as this program does not end them, so that the last one may lack its end."""

    kind: type[Row]
    delimiter: str
    names: list[str]
    edited: bool

    @classmethod
    def of(cls, lines: _Lines, kind: type[Row]) -> _Form[Row]:
        """By the first line, past which `lines` then are if it is one of names; without names, by
        the order of columns, and by the separator that most of the first lines are rows with."""
        wanted, delimiters = _list_columns(kind), DELIMITERS
        least = len(wanted) - len(kind.dispensable)
        sample = lines.look(SAMPLE)
        first = next((i for i, line in enumerate(sample) if line.strip()), 0)
        if sample and (told := SEPARATOR_LINE.fullmatch(sample[first].strip("\r\n"))):
            lines.skip(first + 1)
            sample, delimiters = lines.look(SAMPLE), told[1] + DELIMITERS
            first = next((i for i, line in enumerate(sample) if line.strip()), 0)
        edited = bool(sample) and sample[first].endswith("\r\n")
        fitting = dict.fromkeys(delimiters, 0)
        for delimiter in fitting:
            rows = [next(csv.reader([line], delimiter=delimiter), []) for line in sample[first:]]
            names = [cell.strip().lower() for cell in rows[0]] if rows else []
            if 2 * len(set(names) & set(wanted)) > least:
                lines.skip(first + 1)
                return cls(kind, delimiter, names, edited)
            rows += csv.reader(sample[first:], delimiter=delimiter)  # rows may be of several lines
            fitting[delimiter] = sum(least <= len(row) <= len(wanted) for row in rows)
        return cls(kind, max(fitting, key=fitting.__getitem__), list(wanted), edited)

    @cached_property
    def lacks(self) -> list[str]:
        """Columns that the file has not."""
        return [column for column in _list_columns(self.kind) if column not in self.names]

    @property
    def others(self) -> list[str]:
        """Columns that are none of the rows'."""
        return [name for name in self.names if name not in _list_columns(self.kind)]

    def row(self, cells: list[str], line: str) -> Row | None:
        """A row of its cells; None of cells that are all empty, and of names again, where files
        were joined.

        Args:
            line: the last one of the row.

        Raises:
            KeyError, ValueError, TypeError, AttributeError, RecursionError: they are no such row,
            or a part of one.
        """
        text = "".join(cells)
        if not text.strip() or cells == self.names:
            return None
        if not self.edited and not line.endswith(("\n", "\r")):
            raise ValueError("the last line has no end")
        if "\0\0" in text:
            raise ValueError("zeros of a damaged disk")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("not UTF-8 text") from error
        if len(cells) == 1:  # where the separator is a semicolon, Excel takes a line for a cell
            cells = next(
                csv.reader(io.StringIO(cells[0], newline=""), delimiter=self.delimiter, strict=True)
            )
        if len(cells) > len(self.names):
            raise ValueError(f"{len(cells)} cells for {len(self.names)} columns")
        said = dict(zip(self.names, cells, strict=False))
        if self.lacks or len(cells) < len(self.names):
            for column in _list_columns(self.kind):
                if column not in said and column not in self.kind.dispensable:
                    raise ValueError(f"no {column}")
                said.setdefault(column, "")
        return self.kind.from_cells(said)


def _read(lines: _Lines, kind: type[Row], name: str) -> Table[Row]:
    table: Table[Row] = Table()
    form = _Form.of(lines, kind)
    if missing := [column for column in form.lacks if column not in kind.dispensable]:
        table.unread = f"line {lines.number}: no column {missing[0]}"
        return table
    if form.others:
        table.others = f"columns that are none of its: {', '.join(form.others)}"
    unread, contradicted, owners = [], [], dict[str, Any]()
    reader = csv.reader(lines, delimiter=form.delimiter, strict=True)
    while True:
        first = lines.number + 1
        try:
            row = form.row(next(reader), lines.last)
            if row is not None and kind.unique:
                said = getattr(row, kind.unique)
                if owners.setdefault(said, row.place) != row.place:
                    raise ValueError(f"another row has the {kind.unique} {said} already")
        except StopIteration:
            break
        except (
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
            csv.Error,
        ) as error:
            why = read_first_line(error, type(error).__name__)
            unread.append(f"line {first}: not a row of {name} ({why})")
            lines.rewind(but=1)  # a quote left open takes many lines with it, which are rows
            reader = csv.reader(lines, delimiter=form.delimiter, strict=True)
            continue
        if row is not None and table.rows.setdefault(row.place, row) != row:
            table.rows[row.place] = row
            place = ", ".join(map(str, row.place))
            contradicted.append(
                f"line {first}: another row of {place}, which says otherwise; the last counts"
            )
        lines.settle()
    table.unread, table.contradicted = _tell_first(unread), _tell_first(contradicted)
    return table


def _tell_first(said: Sequence[str]) -> str:
    """The first, and how many more."""
    return f"{said[0]}, and {len(said) - 1} more" if len(said) > 1 else "".join(said)
