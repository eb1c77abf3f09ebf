"""Whether the pictures of runs are those that were listed, each read from its first byte to its
last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from asyndm.errors import UserError
from evaluation.messages import is_quiet
from evaluation.runs.files import ForeignFile, is_whole_png, require_file
from evaluation.runs.folder import IMAGES_FILE, read_state
from evaluation.runs.records import is_count, read_record
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import IMAGES, ImageRow
from evaluation.runs.stamps import Stamps


def find_faults(folder: Path) -> Iterator[tuple[Path, str]]:
    """The pictures of a run, each with what is wrong with it where it is not the one of its
    ``images.csv``, or has no row there; empty text where nothing is. In place of rows that a
    finished run lacks with their pictures it is the list.

    Raises:
        UserError: the list cannot be read, or there is none.
    """
    stamps = Stamps(folder, trusted=False)
    rows = read_rows(folder / IMAGES_FILE, ImageRow)
    if not rows and any(folder.glob(f"{IMAGES}/[!.]*.png")):
        raise UserError(f"{folder / IMAGES_FILE}: lists none of the pictures that are there")
    for row in tqdm(rows, desc=folder.name, unit="img", delay=2, leave=False, disable=is_quiet()):
        right = stamps.is_listed(row)
        yield folder / row.file, "" if right else _find_fault(folder / row.file)
    stamps.save()
    listed = {row.file.rpartition("/")[2] for row in rows}
    unlisted = sorted(
        path for path in folder.glob(f"{IMAGES}/[!.]*.png") if path.name not in listed
    )
    yield from ((path, f"not in {IMAGES_FILE}") for path in unlisted)
    if (lost := _count(folder) - len(rows) - len(unlisted)) > 0:
        yield folder / IMAGES_FILE, f"{lost:,} of the run's pictures neither listed nor there"


def _count(folder: Path) -> int:
    """How many images a finished run has; of one that is not, or whose record says nothing, 0."""
    with suppress(UserError):
        count = read_record(folder).get("images")
        if read_state(folder)["state"] == "done" and is_count(count):
            return int(count or 0)
    return 0


def _find_fault(path: Path) -> str:
    try:
        require_file(path)
    except ForeignFile:
        return "not a file"
    except (OSError, ValueError):
        return "missing"
    return "changed" if is_whole_png(path) else "cut short"
