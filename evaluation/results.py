"""What a run leaves behind: its files, their columns, and how they are written and read.

A run is a folder with

- ``run.json``      what was asked, and with what it was made (config, identity, versions, seeds, timings),
- ``state.json``    pending, running, done, failed or interrupted, and the error of a failure,
- ``shards/*.json`` the same of each part, where the run was made in parts,
- ``prompts.json``  the prompts with their subjects, phrases and meaning,
- ``images.csv``    one row an image (`ImageRow`), the pictures themselves under ``images/``,
- ``scores.csv``    one row an image and metric (`ScoreRow`),
- ``quality.csv``   one row a set of images and distance (`QualityRow`), where it was measured,
- ``grid.png``, ``strip.png``  pictures to look at,
- ``.stamps.csv``   when each picture was last read, so that not all are each time (`evaluation.runs.stamps`).

Every file is written whole or not at all: under a temporary name, then renamed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any, ClassVar, Self

from asyndm.errors import UserError
from evaluation.files import (
    REMEDY,
    ForeignFile,
    checked_file,
    is_whole_png,
    read_json,
    sha256,
    write_bytes,
    write_json,
)
from evaluation.row_files import read_rows, write_rows
from evaluation.runs.prompts import Prompt
from evaluation.runs.records import find_flaw, is_count

__all__ = [
    "IMAGES",
    "IMAGES_FILE",
    "PROMPTS_FILE",
    "QUALITY_FILE",
    "REMEDY",
    "RUN_FILE",
    "SCHEMA_VERSION",
    "SCORES_FILE",
    "SHARDS",
    "STATE_FILE",
    "ForeignFile",
    "ImageRow",
    "QualityRow",
    "Run",
    "ScoreRow",
    "checked_file",
    "find_runs",
    "is_newer",
    "is_whole_png",
    "read_json",
    "read_prompts",
    "read_record",
    "read_rows",
    "read_run",
    "read_state",
    "runs_below",
    "sha256",
    "write_bytes",
    "write_json",
    "write_prompts",
    "write_rows",
]

SCHEMA_VERSION = 1
RUN_FILE, STATE_FILE, PROMPTS_FILE = "run.json", "state.json", "prompts.json"
IMAGES_FILE, SCORES_FILE, QUALITY_FILE = "images.csv", "scores.csv", "quality.csv"
IMAGES, SHARDS = "images", "shards"


def _cells(row: ImageRow | ScoreRow | QualityRow) -> dict[str, str]:
    values = {name: getattr(row, name) for name in row.__slots__}
    return {name: "" if value is None else str(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One picture. `image_index` counts within its prompt; `file` is relative to the run's folder."""

    run_id: str
    prompt_id: str
    prompt: str
    subjects: tuple[str, ...]
    kind: str
    image_index: int
    seed: int
    file: str
    sha256: str

    dispensable: ClassVar[tuple[str, ...]] = ()
    unique: ClassVar[str] = "file"

    @property
    def key(self) -> tuple[str, int]:
        """What joins it with its scores."""
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, int]:
        """Which row of its file it is."""
        return self.key

    def to_cells(self) -> dict[str, str]:
        return _cells(self) | {"subjects": json.dumps(self.subjects)}

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        subjects = json.loads(cells["subjects"])
        if not isinstance(subjects, list) or not all(isinstance(text, str) for text in subjects):
            raise ValueError("subjects are no list of texts")
        folder, _, name = (file := cells["file"].strip()).partition("/")
        if folder != IMAGES or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"the file {file} is none in {IMAGES}/")
        return cls(
            intern(cells["run_id"].strip()),
            cells["prompt_id"].strip(),
            cells["prompt"],
            tuple(map(intern, subjects)),
            intern(cells["kind"]),
            int(cells["image_index"]),
            int(cells["seed"]),
            file,
            cells["sha256"].strip(),
        )


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One metric's opinion of one picture. `value` is None where it could not be scored; `reason` says why,
    or what is wrong with the picture."""

    run_id: str
    prompt_id: str
    image_index: int
    metric: str
    value: float | None
    reason: str = ""

    dispensable: ClassVar[tuple[str, ...]] = ("reason",)
    unique: ClassVar[str] = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, str, int]:
        """Which row of its file it is."""
        return self.metric, self.prompt_id, self.image_index

    def to_cells(self) -> dict[str, str]:
        value = "" if self.value is None else repr(float(self.value))
        return _cells(self) | {"value": value}

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        value = float(cells["value"]) if cells["value"] else None
        if value is not None and not math.isfinite(value):
            raise ValueError(f"the value {value} is no number")
        return cls(
            intern(cells["run_id"].strip()),
            cells["prompt_id"].strip(),
            int(cells["image_index"]),
            intern(cells["metric"].strip()),
            value,
            cells["reason"],
        )


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One distance between a set of pictures and a reference set.

    `features` and `reference` name a network and a set, with a hash where they lie on this disk; `pictures` is
    the hash of the set itself. `images` and `reference_images` count those that could be read. `deviation`
    is KID's over its subsets. `subset_size` and `seed` are None where nothing is drawn.
    """

    run_id: str
    metric: str
    features: str
    reference: str
    pictures: str
    images: int
    reference_images: int
    value: float
    deviation: float | None
    subset_size: int | None
    seed: int | None

    dispensable: ClassVar[tuple[str, ...]] = ()
    unique: ClassVar[str] = ""

    @property
    def place(self) -> tuple[str, str, str, str, int | None, int | None]:
        """Which row of its file it is: what the value depends on."""
        return self.metric, self.features, self.reference, self.pictures, self.subset_size, self.seed

    def to_cells(self) -> dict[str, str]:
        return _cells(self)

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        return cls(
            *(cells[name].strip() for name in ("run_id", "metric", "features", "reference", "pictures")),
            int(cells["images"]),
            int(cells["reference_images"]),
            float(cells["value"]),
            float(cells["deviation"]) if cells["deviation"] else None,
            int(cells["subset_size"]) if cells["subset_size"] else None,
            int(cells["seed"]) if cells["seed"] else None,
        )


@dataclass(frozen=True)
class Run:
    """A run as read back from its folder. `left_out` counts images of its list that are not among `images`."""

    folder: Path
    record: dict[str, Any]
    state: str
    images: list[ImageRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    left_out: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that can change a pixel, in canonical form: what the folder's hash is taken of."""
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
    return state if isinstance(state, dict) and isinstance(state.get("state"), str) else {"state": "pending"}


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
            f"{path}: schema version {version} is newer than this program's {SCHEMA_VERSION}; update it"
        )
    if flaw := find_flaw(record):
        raise UserError(f"{path}: not the record of a run ({flaw}); {REMEDY}")
    return dict(record)


def is_newer(version: Any) -> bool:
    """Whether a record's schema version is none of this program's or an earlier one's, which are numbers."""
    return isinstance(version, bool) or not isinstance(version, int | float) or version > SCHEMA_VERSION


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
        raise UserError(f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}")
    return sorted(path.parent.resolve() for path in root.rglob(RUN_FILE))
