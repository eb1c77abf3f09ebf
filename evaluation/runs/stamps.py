"""Whether pictures are still those that ``images.csv`` lists, without reading all of them each
time.

As the index of git does: a hidden table beside the pictures says of each its size, its times and
its SHA-256 when it was last read. Where size and times are those, the hash holds; else the picture
is read again. The table can be removed at any time, and a folder that cannot be written to does
without.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asyndm.errors import UserError
from evaluation.runs.files import hash_file, require_file, write_bytes
from evaluation.runs.locks import hold_tables
from evaluation.runs.rows import ImageRow

STAMPS_FILE = ".stamps.csv"
CHANGED = (
    "not the picture that images.csv lists; "
    "ask experiments.run for the run again, which makes it anew"
)


class Stamp(NamedTuple):
    """A picture when it was read: `file` is relative to its run's folder, `size` in bytes, times in
    nanoseconds.

    `changed_ns` is when anything of the file, its name and times included, was last changed: a
    picture that is put in the place of another cannot hide behind that one's own time.
    """

    file: str
    size: int
    modified_ns: int
    changed_ns: int
    sha256: str


class Stamps:
    """The hashes of a run's pictures. Several processes may keep them at once.

    Args:
        folder: of the run.
        trusted: whether a stamp that holds is taken for the picture's; else every picture is read.
    """

    def __init__(self, folder: Path, trusted: bool = True) -> None:
        self.folder = folder
        self._known = self._read() if trusted else {}
        self._new: dict[str, Stamp] = {}

    def sha256(self, file: str, anew: bool = False) -> str:
        """The hash of a picture as it is now; empty where none can be read.

        Args:
            file: relative to the run's folder.
            anew: whether it is read in any case.
        """
        path = f"{self.folder}/{file}"
        try:
            status = os.stat(path)
            signature = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            known = self._known.get(file)
            if anew or known is None or known[1:4] != signature:
                known = Stamp(file, *signature, hash_file(Path(path)))
                self._known[file] = self._new[file] = known
        except (OSError, UserError, ValueError):
            return ""
        return known.sha256

    def is_listed(self, row: ImageRow) -> bool:
        """Whether the picture of a row is there, and the one that was listed. No stamp is believed
        that it is not."""
        if row.sha256 in ("", self.sha256(row.file)):
            return row.sha256 != ""
        return row.file not in self._new and self.sha256(row.file, anew=True) == row.sha256

    def is_another(self, file: str) -> bool:
        """Whether a picture is another one than when it was last read; not of one that was not."""
        known = self._known.get(file)
        return known is not None and known.sha256 != self.sha256(file)

    def save(self) -> None:
        """Keeps what was read, if anything was and the folder can be written to."""
        if self._new:
            with suppress(OSError), hold_tables(self.folder):
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(Stamp._fields)
                writer.writerows(sorted((self._read() | self._new).values()))
                write_bytes(self.folder / STAMPS_FILE, text.getvalue().encode())
            self._new = {}

    def _read(self) -> dict[str, Stamp]:
        """The table, none if it is damaged."""
        try:
            with require_file(self.folder / STAMPS_FILE).open(
                newline="", encoding="utf-8"
            ) as table:
                rows = csv.reader(table)
                next(rows)
                return {
                    file: Stamp(file, int(size), int(modified), int(changed), digest)
                    for file, size, modified, changed, digest in rows
                }
        except (OSError, UserError, ValueError, StopIteration, csv.Error):
            return {}


def find_changed_pictures(folder: Path, images: Iterable[ImageRow]) -> list[ImageRow]:
    """The rows whose picture is there, but is another one than was listed, or a part of it.

    Args:
        folder: of the run.
        images: its ``images.csv``.
    """
    stamps = Stamps(folder)
    found = [row for row in images if not stamps.is_listed(row) and is_there(folder / row.file)]
    stamps.save()
    return found


def is_there(path: Path) -> bool:
    """Whether anything is at that path, readable or not."""
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True
