"""Runs gathered into cells: all images of one method under the same conditions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.labels import (
    GuidanceLabel,
    MethodLabel,
    count_evaluations,
    read_all_labels,
    read_subjects,
)
from evaluation.runs.folder import Run

SeededPrompt = tuple[str, str, int]
"""An image across runs: prompt id, prompt, seed."""
Opinion = dict[str, dict[SeededPrompt, float]]
"""What a metric says of images: their `SCORE`, and what it counts by the names of `COUNTS`."""
SCORE = "score"

SHARED = ("eta", "guidance", "solver", "pipeline", "height", "width", "noise", "recipe")
"""Settings that a table has no column of where they are the same in all rows."""
CONDITIONS = ("model", "prompt_set", "steps", *SHARED)
PAIRING = tuple(name for name in CONDITIONS if name != "prompt_set")
"""What two methods must share to be compared, beside the prompt and the seed of each image."""
METHOD = ("method", "curve", "concavity", "threshold", "settings")
MODEL = ("model", "weights", "dtype")


@dataclass
class Cell:
    """All images of one method under the same conditions, from one run or several (more seeds or
    prompts)."""

    labels: dict[str, Any]
    folders: set[Path] = field(default_factory=set)
    """Of the runs."""
    images: dict[SeededPrompt, str] = field(default_factory=dict)
    opinions: dict[str, Opinion] = field(default_factory=dict)
    """Of each metric."""
    lower_is_better: set[str] = field(default_factory=set)
    subjects: dict[tuple[str, str], str] = field(default_factory=dict)
    counted: list[tuple[float, float, int]] = field(default_factory=list)
    """Of each run that tells: its network's rows, those it was differentiated for, and for how many
    images."""

    @property
    def method(self) -> MethodLabel:
        method: MethodLabel = self.labels["method"]
        return method

    @property
    def evaluations(self) -> float | None:
        """Rows of the network for one image, rehearsals included; None where no run tells."""
        return self._average_rows(0)

    @property
    def backward(self) -> float | None:
        """Those the network was differentiated for; None where no run tells."""
        return self._average_rows(1)

    def _average_rows(self, which: int) -> float | None:
        if not self.counted:
            return None
        images = sum(counted[2] for counted in self.counted)
        mean = sum(counted[which] for counted in self.counted) / images
        return int(mean) if mean == int(mean) else round(mean, 2)

    @property
    def pairing(self) -> tuple[Hashable, ...]:
        return tuple(self.labels[name] for name in PAIRING)

    def add(self, run: Run, subjects: Mapping[tuple[str, str], str]) -> None:
        """Takes in the images, scores and subjects of a run."""
        self.folders.add(run.folder)
        self.subjects |= subjects
        if (counted := count_evaluations(run)) is not None:
            self.counted.append(counted)
        self.lower_is_better |= find_minimised(run)
        keys = {image.key: (image.prompt_id, image.prompt, image.seed) for image in run.images}
        self.images |= {keys[image.key]: image.kind for image in run.images}
        for score in run.scores:
            if score.value is not None and score.key in keys:
                opinion = self.opinions.setdefault(score.metric, {})
                for name, number in {SCORE: score.value, **score.counts}.items():
                    opinion.setdefault(name, {})[keys[score.key]] = number


def find_minimised(run: Run) -> set[str]:
    """The metrics of a run of which a good picture has little."""
    bases: dict[str, Any] = run.record.get("metrics") or {}
    return {
        name
        for name, basis in bases.items()
        if isinstance(basis, dict) and not basis.get("higher_is_better", True)
    }


def collect_cells(runs: Iterable[Run]) -> list[Cell]:
    """Runs gathered into cells; an image that several of them hold counts once.

    Runs that give a prompt other subjects or concavities are other cells, told apart by a digest of
    these.
    """
    groups: dict[tuple[Hashable, ...], list[Cell]] = {}
    listed = list(runs)
    for run, of in zip(listed, read_all_labels(listed), strict=True):
        subjects = read_subjects(run)
        group = groups.setdefault(tuple(of.values()), [])
        agreeing = [
            c for c in group if all(c.subjects.get(p, text) == text for p, text in subjects.items())
        ]
        if not agreeing:
            agreeing.append(Cell(of))
            group += agreeing
        cell = max(agreeing, key=lambda c: len(c.subjects.keys() & subjects.keys()))
        cell.add(run, subjects)
    for group in groups.values():
        if len(group) > 1:
            for cell in group:
                digest = hashlib.sha256(
                    json.dumps(sorted(cell.subjects.items())).encode()
                ).hexdigest()[:6]
                cell.labels["settings"] = f"{cell.labels['settings']} subjects={digest}".strip()

    def order(cell: Cell) -> tuple[Any, ...]:
        return (
            *(_sort_key(cell.labels[name]) for name in CONDITIONS),
            *cell.method.rank,
            *(_sort_key(cell.labels[name]) for name in METHOD),
        )

    return sorted((cell for group in groups.values() for cell in group), key=order)


def _sort_key(label: Any) -> tuple[str, float, str]:
    """By what a label is put in order: by its number, if it has one, then by its letters; a
    guidance after those with which it shares all but its scale."""
    is_guidance = isinstance(label, GuidanceLabel)
    number = label.scale if is_guidance else label
    number = float(number) if isinstance(number, int | float) else -math.inf
    return label.rest if is_guidance else "", number, str(label)
