"""The rows of a CSV that several processes add to."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic

from asyndm.errors import UserError
from evaluation.runs.files import keep_beside
from evaluation.runs.locks import hold_tables
from evaluation.runs.row_files import Row, explain_damage, read_table, warn_once, write_rows

SHARE = 100
"""Writing takes at most one part in so many of the time."""


class SharedRows(Generic[Row]):
    """The rows of a CSV as this process knows them: what the file said when last read, and what was
    put since.

    Saving reads the file again, takes in what is new on both sides and writes it in order, so that
    the rows do not depend on who wrote when. What of the file cannot be read is told, and made anew
    where it is asked for; the file as it was is kept beside before it is written over.

    Args:
        path: of the file.
        kind: of its rows.
        order: puts rows into the file's order.
        tells: warns at once of what cannot be read; False: not before `refresh`.

    Raises:
        UserError: a folder, a pipe or a device of that name.
    """

    def __init__(
        self,
        path: Path,
        kind: type[Row],
        order: Callable[[Iterable[Row]], Sequence[Row]],
        tells: bool = True,
    ) -> None:
        self.path = path
        self.kind: type[Row] = kind
        self.order: Callable[[Iterable[Row]], Sequence[Row]] = order
        self.rows: dict[Any, Row] = {}
        self._new: dict[Any, Row] = {}
        self._dropped: set[Any] = set()
        self._seen: tuple[int, int, int] | None = None
        self._lost, self._unread, self._contradicted = "", "", ""
        self._saved, self._took = time.monotonic(), 0.0
        self._load()
        if tells:
            self.refresh()

    def refresh(self) -> None:
        """Reads the file if another process wrote it since. What of it cannot be read is told, and
        will be lost when the file is written."""
        self._load()
        if self._unread or self._contradicted:
            warn_once(f"{self.path}, {self._lost}; {len(self.rows)} rows of it are kept")

    def _load(self) -> None:
        if (seen := read_signature(self.path)) != self._seen:
            table = read_table(self.path, self.kind)
            for place in self._dropped:
                table.rows.pop(place, None)
            self.rows = table.rows | self._new
            self._seen, self._lost = seen, table.lost
            self._unread, self._contradicted = table.unread, table.contradicted

    def read(self) -> list[Row]:
        """The rows in the file's order, each place once, as `evaluation.runs.row_files.read_rows`.

        Raises:
            UserError: a row that cannot be read.
        """
        self._load()
        if self._unread:
            raise UserError(explain_damage(self.path, self._unread))
        if self._contradicted:
            warn_once(f"{self.path}, {self._contradicted}")
        return list(self.rows.values())

    def put(self, rows: Iterable[Row]) -> None:
        """Adds rows, or replaces those of the same place, and saves them if the last time is long
        enough ago."""
        for row in rows:
            self.rows[row.place] = self._new[row.place] = row
            self._dropped.discard(row.place)
        if time.monotonic() - self._saved > SHARE * self._took:
            self.save()

    def drop(self, places: Collection[Any]) -> None:
        """Takes rows out, at once."""
        if places:
            for place in places:
                self.rows.pop(place, None)
                self._new.pop(place, None)
            self._dropped.update(places)
            self.save()

    def mend(self) -> None:
        """Writes a file of which something cannot be read, so that others can read it."""
        if self._unread:
            self.save()

    def save(self) -> None:
        """Writes what was put and dropped, if anything was.

        Raises:
            OSError: the file cannot be written; what was put is kept for the next time.
        """
        if not (self._new or self._dropped or self._lost) and self.path.exists():
            return
        started = time.monotonic()
        with hold_tables(self.path.parent):
            self.refresh()
            if self._lost:
                copy = keep_beside(self.path)
                warn_once(f"{self.path}: as it was, it is kept as {copy.name} ({self._lost})")
            ordered = self.order(self.rows.values())
            write_rows(self.path, self.kind, ordered)
            self.rows = {row.place: row for row in ordered}
            self._seen = read_signature(self.path)
        self._new, self._dropped = {}, set()
        self._lost, self._unread, self._contradicted = "", "", ""
        self._saved = time.monotonic()
        self._took = self._saved - started


def read_signature(path: Path) -> tuple[int, int, int] | None:
    """What another writer of a file changes, as every one of them puts a new file in the old one's
    place; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
