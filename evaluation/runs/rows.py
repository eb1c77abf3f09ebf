"""The rows of a run's tables: one class a file, each a line of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from sys import intern
from typing import ClassVar, Self

IMAGES = "images"
"""The folder of a run's pictures."""
ImageKey = tuple[str, int]
"""An image within a run: its prompt's id, and its place among the images of that prompt."""
COUNTS = ("surplus", "missing")
"""What a metric can count beside its value: things more, and fewer, than asked for."""


def _format_cells(row: ImageRow | ScoreRow | QualityRow) -> dict[str, str]:
    values = {name: getattr(row, name) for name in row.__slots__}
    return {name: "" if value is None else str(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One picture. `image_index` counts within its prompt; `file` is relative to the run's
    folder."""

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
    def key(self) -> ImageKey:
        """What joins it with its scores."""
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, int]:
        """Which row of its file it is."""
        return self.key

    def to_cells(self) -> dict[str, str]:
        return _format_cells(self) | {"subjects": json.dumps(self.subjects)}

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
    """One metric's opinion of one picture. `value` is None where it could not be scored; `reason`
    says why, or what is wrong with the picture. `surplus` and `missing` are None where the metric
    counts no things, and in files of earlier checkouts."""

    run_id: str
    prompt_id: str
    image_index: int
    metric: str
    value: float | None
    reason: str = ""
    surplus: int | None = None
    missing: int | None = None

    dispensable: ClassVar[tuple[str, ...]] = ("reason", *COUNTS)
    unique: ClassVar[str] = ""

    @property
    def key(self) -> ImageKey:
        return self.prompt_id, self.image_index

    @property
    def place(self) -> tuple[str, str, int]:
        """Which row of its file it is."""
        return self.metric, self.prompt_id, self.image_index

    @property
    def counts(self) -> dict[str, int]:
        """What is counted beside the value, by the names of `COUNTS`."""
        counted = {name: getattr(self, name) for name in COUNTS}
        return {name: count for name, count in counted.items() if count is not None}

    @property
    def numbers(self) -> dict[str, float | None]:
        """All that it says in numbers, by names that no other metric has: the value by the metric's
        own, counts as ``exact_surplus``."""
        counted = {f"{self.metric}_{name}": count for name, count in self.counts.items()}
        return {self.metric: self.value, **counted}

    def to_cells(self) -> dict[str, str]:
        value = "" if self.value is None else repr(float(self.value))
        return _format_cells(self) | {"value": value}

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
            *(_read_count(cells[name]) for name in COUNTS),
        )


def _read_count(cell: str) -> int | None:
    """Also of "1.0", as tables with empty cells are often saved.

    Raises:
        ValueError: no whole number from 0 on.
    """
    if not cell.strip():
        return None
    count = float(cell)
    if count < 0 or not count.is_integer():
        raise ValueError(f"{cell} is no number of things")
    return int(count)


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One distance between a set of pictures and a reference set.

    `features` and `reference` name a network and a set, with a hash where they lie on this disk;
    `pictures` is the hash of the set itself. `images` and `reference_images` count those that could
    be read. `deviation` is KID's over its subsets. `subset_size` and `seed` are None where nothing
    is drawn.
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
        return (
            self.metric,
            self.features,
            self.reference,
            self.pictures,
            self.subset_size,
            self.seed,
        )

    def to_cells(self) -> dict[str, str]:
        return _format_cells(self)

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> Self:
        return cls(
            cells["run_id"].strip(),
            cells["metric"].strip(),
            cells["features"].strip(),
            cells["reference"].strip(),
            cells["pictures"].strip(),
            int(cells["images"]),
            int(cells["reference_images"]),
            float(cells["value"]),
            float(cells["deviation"]) if cells["deviation"] else None,
            int(cells["subset_size"]) if cells["subset_size"] else None,
            int(cells["seed"]) if cells["seed"] else None,
        )
