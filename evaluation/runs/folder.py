"""What a run leaves behind: its files, their columns, and how they are written and read.

A run is a folder with

- ``run.json``      what was asked, and with what it was made (config, identity, versions, timings),
- ``state.json``    pending, running, done, failed or interrupted, and the error of a failure,
- ``shards/*.json`` the same of each part, where the run was made in parts,
- ``prompts.json``  the prompts with their subjects, phrases and meaning,
- ``images.csv``    one row an image (`ImageRow`), the pictures themselves under ``images/``,
- ``scores.csv``    one row an image and metric (`ScoreRow`),
- ``quality.csv``   one row a set of images and distance (`QualityRow`), where it was measured,
- ``grid.png``, ``strip.png``  pictures to look at,
- ``.stamps.csv``   when each picture was last read, so that not all are each time.

Every file is written whole or not at all: under a temporary name, then renamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.files import (
    REMEDY,
    ForeignFile,
    read_json,
    write_json,
)
from evaluation.runs.prompts import Prompt
from evaluation.runs.records import find_flaw, is_count
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow, ScoreRow

SCHEMA_VERSION = 1
RUN_FILE, STATE_FILE, PROMPTS_FILE = "run.json", "state.json", "prompts.json"
IMAGES_FILE, SCORES_FILE, QUALITY_FILE = "images.csv", "scores.csv", "quality.csv"
SHARDS = "shards"


@dataclass(frozen=True)
class Run:
    """A run as read back from its folder. `left_out` counts images of its list that are not among
    `images`."""

    folder: Path
    record: dict[str, Any]
    state: str
    images: list[ImageRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    left_out: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that can change a pixel, in canonical form: what the folder's hash is taken
        of."""
        identity: dict[str, Any] = self.record["identity"]
        return identity

    @property
    def lacking(self) -> int:
        """How many images of its record are not in its list, of a finished run."""
        count = self.record.get("images")
        if self.state != "done" or not is_count(count):
            return 0
        return max(0, count - len(self.images) - self.left_out)

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Its prompts by their id.

        Raises:
            UserError: not the prompts of a run.
        """
        return read_prompts(self.folder / PROMPTS_FILE)


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Keeps what the metrics need to know of each prompt."""
    write_json(path, [prompt.to_dict() for prompt in prompts])


def read_prompts(path: Path) -> dict[str, Prompt]:
    """The prompts of a run by their id.

    Raises:
        UserError: not the prompts of a run.
    """
    entries = read_json(path)
    try:
        prompts = [Prompt.from_dict(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the prompts of a run ({error!r}); {REMEDY}") from error
    return {prompt.prompt_id: prompt for prompt in prompts}


def read_state(folder: Path) -> dict[str, Any]:
    """The run's state; ``{"state": "pending"}`` before it began, or where the file says nothing."""
    try:
        state = read_json(folder / STATE_FILE)
    except (OSError, UserError):
        state = None
    return (
        state
        if isinstance(state, dict) and isinstance(state.get("state"), str)
        else {"state": "pending"}
    )


def read_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        UserError: no run there, or a damaged one.
        ForeignFile: it was written by a newer version, or is no file.
    """
    path = folder / RUN_FILE
    try:
        record: Any = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {RUN_FILE} there") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version is not None and is_newer(version):
        raise ForeignFile(
            f"{path}: schema version {version} is newer than this program's {SCHEMA_VERSION}; "
            "update it"
        )
    if flaw := find_flaw(record):
        raise UserError(f"{path}: not the record of a run ({flaw}); {REMEDY}")
    return dict(record)


def is_newer(version: Any) -> bool:
    """Whether a record's schema version is none of this program's or an earlier one's, which are
    numbers."""
    return (
        isinstance(version, bool)
        or not isinstance(version, int | float)
        or version > SCHEMA_VERSION
    )


def read_run(folder: Path) -> Run:
    """Everything a folder says of its run, finished or not.

    Raises:
        UserError: as `read_record`, or a row that cannot be read.
    """
    record, state = read_record(folder), read_state(folder)["state"]
    images = read_rows(folder / IMAGES_FILE, ImageRow)
    return Run(folder, record, state, images, read_rows(folder / SCORES_FILE, ScoreRow))


def find_runs(roots: Sequence[Path]) -> list[Path]:
    """The folders of all runs in these folders or below them, each once, in order.

    Raises:
        UserError: a folder that does not exist, or no run in any of them.
    """
    folders = {folder for root in roots for folder in runs_below(root)}
    if not folders:
        names = ", ".join(str(root) for root in roots)
        raise UserError(f"{names}: no runs there; make some with python -m experiments.run")
    return sorted(folders)


def runs_below(root: Path) -> list[Path]:
    """The folders of all runs in a folder or below it, in order.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}"
        )
    return sorted(path.parent.resolve() for path in root.rglob(RUN_FILE))
