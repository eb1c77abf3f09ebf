"""The rows of a CSV that several processes add to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic

from asyndm.errors import UserError
from evaluation.locks import locked
from evaluation.results import Row, read_rows, salvaged_rows, write_rows

SHARE = 100
"""Writing takes at most one part in so many of the time."""


class SharedRows(Generic[Row]):
    """The rows of a CSV as this process knows them: what the file said when last read, and what was put since.

    Saving reads the file again, takes in what is new on both sides and writes it in order, so that the rows do not
    depend on who wrote when. What a crash left half-written is dropped and made anew.

    Args:
        path: of the file.
        kind: of its rows.
        order: puts rows into the file's order.
    """

    def __init__(self, path: Path, kind: type[Row], order: Callable[[Iterable[Row]], Sequence[Row]]) -> None:
        self.path = path
        self.kind: type[Row] = kind
        self.order: Callable[[Iterable[Row]], Sequence[Row]] = order
        self.rows: dict[Any, Row] = {}
        self._new: dict[Any, Row] = {}
        self._dropped: set[Any] = set()
        self._seen: tuple[int, int] | None = None
        self._damaged = False
        self._saved, self._took = time.monotonic(), 0.0
        self.refresh()

    def refresh(self) -> None:
        """Reads the file if another process wrote it since."""
        if self._signature() != self._seen:
            self._seen = self._signature()
            there = {row.place: row for row in self._read() if row.place not in self._dropped}
            self.rows = there | self._new

    def put(self, rows: Iterable[Row]) -> None:
        """Adds rows, or replaces those of the same place, and saves them if the last time is long enough ago."""
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

    def save(self) -> None:
        """Writes what was put and dropped, if anything was.

        Raises:
            OSError: the file cannot be written; what was put is kept for the next time.
        """
        if not (self._new or self._dropped or self._damaged) and self.path.exists():
            return
        started = time.monotonic()
        with locked(self.path.parent):
            there = {row.place: row for row in self._read() if row.place not in self._dropped}
            self.rows = there | self._new
            write_rows(self.path, self.kind, self.order(self.rows.values()))
            self._seen = self._signature()
        self._new, self._dropped, self._damaged = {}, set(), False
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _read(self) -> list[Row]:
        try:
            return read_rows(self.path, self.kind)
        except UserError:
            rows, self._damaged = salvaged_rows(self.path, self.kind), True
            print(f"warning: {self.path}: damaged; {len(rows)} rows of it are kept", file=sys.stderr)
            return rows

    def _signature(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size
