"""Pictures of any folder, by a list that says what each shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from asyndm.errors import UserError
from evaluation.runs.files import sha256
from evaluation.runs.prompts import Prompt, text_id
from evaluation.runs.prompts.columns import Columns, Row, read_list, text_of, texts
from evaluation.runs.text_files import existing
from evaluation.scoring import Picture

READ = ("file", "text", "kind", "phrases")
"""What of a row is read."""


def listed(folder: Path, path: Path, columns: Mapping[str, str] | None = None) -> list[Picture]:
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
    if existing(path, "file").suffix.lower() == ".txt":
        raise UserError(
            f"{path}: a .txt has texts alone; give a list with file and text, as in a CSV"
        )
    for row in read_list(existing(path, "file"), Columns(columns or {}, "columns", READ)):
        try:
            picture = _picture(folder, row)
        except UserError as error:
            raise UserError(f"{row.place}: {error}") from error
        pictures[picture.prompt.prompt_id] = picture
    if not pictures:
        raise UserError(f"{path}: no rows")
    if not any(picture.path.exists() for picture in pictures.values()):
        raise UserError(f"{path}: none of its files is in {folder}")
    return list(pictures.values())


def _picture(folder: Path, row: Row) -> Picture:
    try:
        name, text = text_of(row, "file").strip(), text_of(row).strip()
    except UserError as error:
        raise UserError(f"needs file and text; {error}") from error
    file, phrases = folder / name, texts(row.known, "phrases")
    content = sha256(file) if file.is_file() else ""
    said = hashlib.sha256("\n".join((content, text, *phrases)).encode()).hexdigest()[:8]
    kind = str(row.known.get("kind") or "")
    return Picture(file, Prompt(f"{text_id(name)}-{said}", text, (), kind, phrases))
