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

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.files import (
    REMEDY,
    ForeignFile,
    is_whole_png,
    read_json,
    require_file,
    write_bytes,
    write_json,
)
from evaluation.runs.locks import LOCK_FILE, hold_tables
from evaluation.runs.prompts import Prompt
from evaluation.runs.records import RUN_FILE, is_count, read_record
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageKey, ImageRow, ScoreRow
from evaluation.runs.shared_rows import SharedRows, read_signature
from evaluation.runs.stamps import Stamps

STATE_FILE, PROMPTS_FILE = "state.json", "prompts.json"
IMAGES_FILE, SCORES_FILE, QUALITY_FILE = "images.csv", "scores.csv", "quality.csv"
GRID_FILE, STRIP_FILE = "grid.png", "strip.png"
SHARDS = "shards"
BASES_FILE = "metrics.json"
"""In a folder of pictures that is no run: what the scores of each metric rest on."""


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
        return max(0, int(count or 0) - len(self.images) - self.left_out)

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Its prompts by their id.

        Raises:
            UserError: not the prompts of a run.
        """
        return read_prompts(self.folder / PROMPTS_FILE)


class RunFolder:
    """The owner of what a run leaves behind: record, state, prompts, pictures and tables.

    Each file is read once, and again only where another process wrote it since: all of them put a
    new file in the old one's place. What this process writes it need not read.

    Args:
        path: of the folder, there or not. Of a folder of pictures that is no run, it owns what
            there is of these: scores and what they rest on.
        keys: the images in order, in which its tables are written; rows of others are left out of
            ``images.csv``.
    """

    def __init__(self, path: Path, keys: Sequence[ImageKey] = ()) -> None:
        self.path = path
        self._keys = keys
        self._record: tuple[Any, dict[str, Any]] | None = None
        self._prompts: tuple[Any, tuple[Prompt, ...]] | None = None
        self._whole = set[str]()

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says.

        Raises:
            UserError, ForeignFile: as `read_record`.
        """
        written = read_signature(self.path / RUN_FILE)
        if self._record is None or self._record[0] != written:
            self._record = written, read_record(self.path)
        return self._record[1]

    @property
    def has_record(self) -> bool:
        """Whether it is known with what the run was begun."""
        try:
            return bool(self.record)
        except UserError:
            return False

    def write_record(self, record: dict[str, Any]) -> None:
        """Puts a record in the place of the one that is there."""
        write_json(self.path / RUN_FILE, record)
        self._record = read_signature(self.path / RUN_FILE), record

    @contextmanager
    def edit_record(self) -> Iterator[dict[str, Any]]:
        """The record as it is now, to be changed while no other process changes it."""
        with hold_tables(self.path):
            record = deepcopy(self.record)  # what fails on the way must not stay in memory
            yield record
            self.write_record(record)

    @property
    def is_run(self) -> bool:
        """Whether there is a record, whatever it says."""
        return (self.path / RUN_FILE).exists()

    @property
    def is_writable(self) -> bool:
        """Whether tables can be kept there; where another's lock cannot be taken they cannot."""
        lock = self.path / LOCK_FILE
        return os.access(self.path, os.W_OK) and (not lock.exists() or os.access(lock, os.W_OK))

    @property
    def run_id(self) -> str:
        """The run's id, or the name of a folder that is no run.

        Raises:
            UserError, ForeignFile: as `read_record`.
        """
        name = self.path.resolve().name
        return str(self.record.get("run_id", name)) if self.is_run else name

    @property
    def bases(self) -> dict[str, Any]:
        """What the scores of each metric in the folder, a run's or another, rest on.

        Raises:
            UserError: the file that says so cannot be read.
        """
        if self.is_run:
            return dict(self.record.get("metrics", {}))
        path, remedy = self.path / BASES_FILE, f"move it and {SCORES_FILE} away"
        bases = read_json(path, remedy) if path.exists() else {}
        if not isinstance(bases, dict):
            raise UserError(f"{path}: does not say what scores rest on; {remedy}")
        return bases

    def note_basis(self, metric: str, basis: Any) -> None:
        """Notes what all scores of a metric in the folder rest on."""
        if self.is_run:
            with self.edit_record() as record:
                record.setdefault("metrics", {})[metric] = basis
            return
        with hold_tables(self.path):  # other processes note their metrics in the same file
            write_json(self.path / BASES_FILE, {**self.bases, metric: basis})

    @property
    def state(self) -> str:
        """ "pending", "running", "done", "failed" or "interrupted"."""
        return str(read_state(self.path)["state"])

    def has_prompts(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the folder says, undamaged, that it is of these prompts."""
        written = read_signature(self.path / PROMPTS_FILE)
        if self._prompts is None or self._prompts[0] != written:
            try:
                found = tuple(read_prompts(self.path / PROMPTS_FILE).values())
            except (FileNotFoundError, UserError):
                return False
            self._prompts = written, found
        return self._prompts[1] == tuple(prompts)

    def write_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Keeps what the metrics need to know of each prompt."""
        write_prompts(self.path / PROMPTS_FILE, prompts)
        self._prompts = read_signature(self.path / PROMPTS_FILE), tuple(prompts)

    @cached_property
    def stamps(self) -> Stamps:
        """When each picture was last read."""
        return Stamps(self.path)

    @cached_property
    def images(self) -> SharedRows[ImageRow]:
        """``images.csv``, without rows that are none of the run's images once it is written."""
        rank = self._rank

        def order(rows: Iterable[ImageRow]) -> list[ImageRow]:
            return sorted((row for row in rows if row.key in rank), key=lambda row: rank[row.key])

        return SharedRows(self.path / IMAGES_FILE, ImageRow, order, tells=False)

    @cached_property
    def scores(self) -> SharedRows[ScoreRow]:
        """``scores.csv``: metric by metric, each in the order of the images, after those of
        others."""
        rank = self._rank

        def order(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
            listed = list(rows)
            metrics = {name: i for i, name in enumerate(dict.fromkeys(r.metric for r in listed))}
            return sorted(listed, key=lambda row: (metrics[row.metric], rank.get(row.key, -1)))

        return SharedRows(self.path / SCORES_FILE, ScoreRow, order, tells=False)

    @cached_property
    def _rank(self) -> dict[ImageKey, int]:
        return {key: i for i, key in enumerate(self._keys)}

    def drop_scores(self, keys: Collection[ImageKey], without_value: bool = False) -> set[ImageKey]:
        """Takes scores of these pictures out of ``scores.csv``.

        Args:
            keys: of the pictures.
            without_value: only those that say why there is none; a picture that was not there is
                another matter once it is.

        Returns:
            of these pictures, those that had such scores.
        """
        if not keys or not (self.path / SCORES_FILE).exists():
            return set()
        self.scores.refresh()
        dropped = {
            place: row.key
            for place, row in self.scores.rows.items()
            if row.key in keys and not (without_value and row.value is not None)
        }
        self.scores.drop(dropped)
        return set(dropped.values())

    def is_whole(self, file: str) -> bool:
        """Whether a picture, relative to the folder, is there with its end. Its end is looked at
        once; that it is still there, each time."""
        if file in self._whole and os.path.exists(f"{self.path}/{file}"):
            return True
        self._whole.discard(file)
        if is_whole_png(self.path / file):
            self._whole.add(file)
        return file in self._whole

    def write_picture(self, file: str, content: bytes, durable: bool = False) -> None:
        """Keeps a picture.

        Args:
            file: relative to the folder.
            content: of a PNG.
            durable: whether to wait until it is on the disk. Pictures need not: one that a crash
                cuts short is seen by its end, and made anew, while a table would lose rows unseen.
        """
        write_bytes(self.path / file, content, durable)
        self._whole.add(file)

    def remove_picture(self, file: str) -> None:
        """Takes a picture away, if it is there."""
        (self.path / file).unlink(missing_ok=True)
        self._whole.discard(file)

    def read(self) -> Run:
        """Everything the folder says of the run, finished or not.

        Raises:
            UserError: as `read_run`.
        """
        images, scores = self.images.read(), self.scores.read()
        return Run(self.path, self.record, self.state, images, scores)

    def refuse_foreign(self) -> None:
        """Refuses a folder with something in it that this program neither reads nor replaces.

        Raises:
            ForeignFile: a record of a newer version; a folder or a pipe where a file of the run
                should be.
        """
        for name in (RUN_FILE, STATE_FILE, PROMPTS_FILE, IMAGES_FILE, SCORES_FILE):
            with suppress(FileNotFoundError):
                require_file(self.path / name)
        try:
            _ = self.record
        except ForeignFile:
            raise
        except UserError:  # damaged: written anew
            pass

    def clear_leftovers(self) -> None:
        """Removes what killed processes left half-written under temporary names, where all is
        made."""
        with hold_tables(self.path):
            for leftover in self.path.rglob(".*.tmp"):
                # the state of a process that lives is written at any time, by its heartbeat
                is_state = leftover.name.startswith(f".{STATE_FILE}")
                if not is_state and leftover.parent.name != SHARDS:
                    leftover.unlink(missing_ok=True)


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
    folders = {folder for root in roots for folder in find_runs_below(root)}
    if not folders:
        names = ", ".join(str(root) for root in roots)
        raise UserError(f"{names}: no runs there; make some with python -m experiments.run")
    return sorted(folders)


def find_runs_below(root: Path) -> list[Path]:
    """The folders of all runs in a folder or below it, in order.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}"
        )
    return sorted(path.parent.resolve() for path in root.rglob(RUN_FILE))
