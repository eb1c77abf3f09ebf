"""Whether the pictures of runs are those that were listed, each read from its first byte to its last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from asyndm.errors import UserError
from evaluation.files import ForeignFile, checked_file, is_whole_png
from evaluation.messages import is_quiet
from evaluation.results import IMAGES_FILE, ImageRow, read_rows
from evaluation.runs.stamps import Stamps


def faults(folder: Path) -> Iterator[tuple[Path, str]]:
    """The pictures of a run that are not those of its ``images.csv``, each with what is wrong with it; empty text where
    nothing is.

    Raises:
        UserError: the list cannot be read, or there is none.
    """
    stamps = Stamps(folder, trusted=False)
    rows = read_rows(folder / IMAGES_FILE, ImageRow)
    if not rows and any((folder / "images").glob("[!.]*.png")):
        raise UserError(f"{folder / IMAGES_FILE}: lists none of the pictures that are there")
    for row in tqdm(rows, desc=folder.name, unit="img", delay=2, leave=False, disable=is_quiet()):
        right = stamps.is_listed(row)
        yield folder / row.file, "" if right else _fault(folder / row.file)
    stamps.save()


def _fault(path: Path) -> str:
    try:
        checked_file(path)
    except ForeignFile:
        return "not a file"
    except (OSError, ValueError):
        return "missing"
    return "changed" if is_whole_png(path) else "cut short"
