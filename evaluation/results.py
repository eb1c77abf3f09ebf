"""What a run leaves behind: its files, their columns, and how they are written and read.

A run is a folder with

- ``run.json``      what was asked, and with what it was made (config, identity, versions, seeds, timings),
- ``state.json``    pending, running, done, failed or interrupted, and the error of a failure,
- ``shards/*.json`` the same of each part, where the run was made in parts,
- ``prompts.json``  the prompts with their subjects, phrases and meaning,
- ``images.csv``    one row an image (`ImageRow`), the pictures themselves under ``images/``,
- ``scores.csv``    one row an image and metric (`ScoreRow`),
- ``quality.csv``   one row a set of images and distance (`QualityRow`), where it was measured,
- ``grid.png``, ``strip.png``  pictures to look at.

Every file is written whole or not at all: under a temporary name, then renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from asyndm.errors import UserError, first_line
from evaluation.runs.prompts import Prompt

SCHEMA_VERSION = 1
RUN_FILE, STATE_FILE, PROMPTS_FILE = "run.json", "state.json", "prompts.json"
IMAGES_FILE, SCORES_FILE, QUALITY_FILE = "images.csv", "scores.csv", "quality.csv"
SHARDS = "shards"
RECORD_PARTS = ("config", "identity", "timings")
REMEDY = "delete it and ask for the run again: what is missing is made anew"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True)
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

    @property
    def key(self) -> tuple[str, int]:
        """What joins it with its scores."""
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, int]:
        """Which row of its file it is."""
        return self.key

    def to_cells(self) -> dict[str, str]:
        return {name: str(value) for name, value in vars(self).items()} | {
            "subjects": json.dumps(self.subjects)
        }

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        return cls(
            cells["run_id"],
            cells["prompt_id"],
            cells["prompt"],
            tuple(json.loads(cells["subjects"])),
            cells["kind"],
            int(cells["image_index"]),
            int(cells["seed"]),
            cells["file"],
            cells["sha256"],
        )


@dataclass(frozen=True)
class ScoreRow:
    """One metric's opinion of one picture. `value` is None where it could not be scored; `reason` says why,
    or what is wrong with the picture."""

    run_id: str
    prompt_id: str
    image_index: int
    metric: str
    value: float | None
    reason: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, str, int]:
        """Which row of its file it is."""
        return self.metric, self.prompt_id, self.image_index

    def to_cells(self) -> dict[str, str]:
        value = "" if self.value is None else repr(float(self.value))
        return {name: str(cell) for name, cell in vars(self).items()} | {"value": value}

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        value = float(cells["value"]) if cells["value"] else None
        if value is not None and not math.isfinite(value):
            raise ValueError(f"the value {value} is no number")
        return cls(
            cells["run_id"],
            cells["prompt_id"],
            int(cells["image_index"]),
            cells["metric"],
            value,
            cells["reason"],
        )


@dataclass(frozen=True)
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

    @property
    def place(self) -> tuple[str, str, str, str, int | None, int | None]:
        """Which row of its file it is: what the value depends on."""
        return self.metric, self.features, self.reference, self.pictures, self.subset_size, self.seed

    def to_cells(self) -> dict[str, str]:
        return {name: "" if value is None else str(value) for name, value in vars(self).items()}

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        return cls(
            cells["run_id"],
            cells["metric"],
            cells["features"],
            cells["reference"],
            cells["pictures"],
            int(cells["images"]),
            int(cells["reference_images"]),
            float(cells["value"]),
            float(cells["deviation"]) if cells["deviation"] else None,
            int(cells["subset_size"]) if cells["subset_size"] else None,
            int(cells["seed"]) if cells["seed"] else None,
        )


Row = TypeVar("Row", ImageRow, ScoreRow, QualityRow)


@dataclass(frozen=True)
class Run:
    """A run as read back from its folder."""

    folder: Path
    record: dict[str, Any]
    state: str
    images: list[ImageRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that can change a pixel, in canonical form: what the folder's hash is taken of."""
        identity: dict[str, Any] = self.record["identity"]
        return identity

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Its prompts by their id.

        Raises:
            UserError: not the prompts of a run.
        """
        return read_prompts(self.folder / PROMPTS_FILE)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Writes a file whole or not at all; with `durable`, it is on the disk before it gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` of readable JSON."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {REMEDY}") from error


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """`write_bytes` of a CSV with the columns of `kind`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_cells() for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a CSV; none if there is no such file.

    Raises:
        UserError: a row that cannot be read, with its line.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(_whole(file))
        try:
            return [kind.from_cells(cells) for cells in reader]
        except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            why = first_line(error, type(error).__name__)
            raise UserError(
                f"{path}, line {reader.line_num}: not a row of {path.name} ({why}); {REMEDY}"
            ) from error


def _whole(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a file, which ends with the end of a line.

    Raises:
        ValueError: it was cut short.
    """
    line = "\n"
    for line in lines:
        yield line
    if not line.endswith("\n"):
        raise ValueError("the last line has no end")


def salvaged_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a damaged CSV that are whole: of one cut short the last line may be a part of one."""
    lines = path.read_bytes().decode("utf-8", "replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n") and "\0" not in line]
    rows = []
    for cells in csv.DictReader(whole):
        try:
            rows.append(kind.from_cells(cells))
        except (KeyError, ValueError, TypeError, AttributeError):
            continue
    return rows


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Keeps what the metrics need to know of each prompt."""
    write_json(path, [asdict(prompt) for prompt in prompts])


def read_prompts(path: Path) -> dict[str, Prompt]:
    """The prompts of a run by their id.

    Raises:
        UserError: not the prompts of a run.
    """
    try:
        prompts = [Prompt.from_dict(entry) for entry in read_json(path)]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the prompts of a run ({error!r}); {REMEDY}") from error
    return {prompt.prompt_id: prompt for prompt in prompts}


def read_state(folder: Path) -> dict[str, Any]:
    """The run's state; ``{"state": "pending"}`` before it began, or where the file says nothing."""
    try:
        state = read_json(folder / STATE_FILE)
    except (FileNotFoundError, NotADirectoryError, UserError):
        state = None
    return state if isinstance(state, dict) and isinstance(state.get("state"), str) else {"state": "pending"}


def read_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        UserError: no run there, a damaged one, or one written by a newer version.
    """
    path = folder / RUN_FILE
    try:
        record: Any = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {RUN_FILE} there") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or not all(isinstance(record.get(part), dict) for part in RECORD_PARTS):
        raise UserError(f"{path}: not the record of a run; {REMEDY}")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version} is newer than this program's {SCHEMA_VERSION}; update it"
        )
    return dict(record)


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


def is_whole_png(path: Path) -> bool:
    """Whether the file is there and has its end: a PNG cut short by a crash does not count as made."""
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:
        return False


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
