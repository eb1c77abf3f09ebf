"""Pictures of a run, and of any folder by a list that says what each shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from asyndm.errors import UserError, read_first_line
from evaluation.metrics import Score
from evaluation.runs.files import hash_file
from evaluation.runs.folder import IMAGES_FILE, PROMPTS_FILE, read_prompts
from evaluation.runs.images import open_image
from evaluation.runs.prompts import Prompt, make_text_id
from evaluation.runs.prompts.columns import Columns, Entry, read_list, read_texts, require_text
from evaluation.runs.records import read_record
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow
from evaluation.runs.stamps import find_changed_pictures
from evaluation.runs.text_files import find_file

READ = ("file", "text", "kind", "phrases")
"""What of a row is read."""


@dataclass(frozen=True)
class Picture:
    """A file, its prompt, and its place among the pictures of that prompt."""

    path: Path
    prompt: Prompt
    image_index: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.prompt_id, self.image_index


def read_pictures(
    folder: Path, path: Path, columns: Mapping[str, str] | None = None
) -> list[Picture]:
    """The pictures that a list names, of any kind that `evaluation.runs.prompts.rows` reads. A
    picture is known by its file's name, content, text and phrases together: one that has changed is
    another one. A file that is not there is kept, and cannot be scored.

    Args:
        columns: what is called otherwise than usual, of `READ`, and how; an empty name: there is
            none.

    Raises:
        UserError: no such folder or file, a malformed row, one without file or text, no rows, no
            files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    pictures: dict[str, Picture] = {}
    if find_file(path, "file").suffix.lower() == ".txt":
        raise UserError(
            f"{path}: a .txt has texts alone; give a list with file and text, as in a CSV"
        )
    for row in read_list(find_file(path, "file"), Columns(columns or {}, "columns", READ)):
        try:
            picture = _make_picture(folder, row)
        except UserError as error:
            raise UserError(f"{row.place}: {error}") from error
        pictures[picture.prompt.prompt_id] = picture
    if not pictures:
        raise UserError(f"{path}: no rows")
    if not any(picture.path.exists() for picture in pictures.values()):
        raise UserError(f"{path}: none of its files is in {folder}")
    return list(pictures.values())


def _make_picture(folder: Path, row: Entry) -> Picture:
    try:
        name, text = require_text(row, "file").strip(), require_text(row).strip()
    except UserError as error:
        raise UserError(f"needs file and text; {error}") from error
    file, phrases = folder / name, read_texts(row.known, "phrases")
    content = hash_file(file) if file.is_file() else ""
    said = hashlib.sha256("\n".join((content, text, *phrases)).encode()).hexdigest()[:8]
    kind = str(row.known.get("kind") or "")
    return Picture(file, Prompt(f"{make_text_id(name)}-{said}", text, (), kind, phrases))


def read_run_pictures(folder: Path) -> tuple[list[Picture], list[Path]]:
    """The pictures of a run, with its prompts, and those left out because they are not the ones
    that it lists.

    Raises:
        UserError: no run there, or a file of it that cannot be read.
    """
    read_record(folder)
    prompts, rows = read_prompts(folder / PROMPTS_FILE), read_rows(folder / IMAGES_FILE, ImageRow)
    if missing := next((row.prompt_id for row in rows if row.prompt_id not in prompts), None):
        raise UserError(f"{folder / PROMPTS_FILE}: no prompt {missing}, which {IMAGES_FILE} names")
    changed = {row.key: folder / row.file for row in find_changed_pictures(folder, rows)}
    kept = [row for row in rows if row.key not in changed]
    pictures = [Picture(folder / row.file, prompts[row.prompt_id], row.image_index) for row in kept]
    return pictures, list(changed.values())


def open_or_explain(path: Path) -> Image.Image | Score:
    """A picture in memory; where it cannot be read, a score without value that says why."""
    try:
        return open_image(path)
    except Exception as error:  # Pillow has some six kinds for a broken file
        return Score(None, f"not a readable picture ({read_first_line(error)})")
