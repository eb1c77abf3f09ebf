"""From runs to a table: one row a method and setting, with its interval and its paired difference
from DM."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asyndm.errors import UserError
from evaluation.labels import METHODS, labels, subjects_of
from evaluation.runs.folder import Run
from evaluation.statistics import Interval, holm, mean_over, paired, stands_out

Key = tuple[str, str, int]
"""An image across runs: prompt id, prompt, seed."""

CONDITIONS = (
    "model",
    "prompt_set",
    "steps",
    "eta",
    "guidance",
    "height",
    "width",
    "noise",
    "recipe",
)
PAIRING = tuple(name for name in CONDITIONS if name != "prompt_set")
"""What two methods must share to be compared, beside the prompt and the seed of each image."""
METHOD = ("method", "curve", "concavity", "threshold", "settings")
ALWAYS = ("method", "curve", "concavity", "steps")
ALL, MEAN = "all", "mean of kinds"
"""What the rows of `Total` are called."""
Row = dict[str, Any]
Against = tuple[str, str]
"""A column of the labels and one of its values, as text: ("guidance", "2")."""
Strata = Mapping[Key, str] | None
"""The kind of each image, where a mean is that of the kinds' means."""


class Total(Enum):
    """Rows of all pictures together, and of the unweighted mean of the kinds' means, as GenEval
    publishes it."""

    ALL = ALL
    MEAN = MEAN


Kind = Total | str
"""What a row is of; no name of a prompt kind is a total."""
Rival = tuple[Row, Mapping[Key, float], Strata]


@dataclass
class Cell:
    """All images of one method under the same conditions, from one run or several (more seeds or
    prompts)."""

    labels: dict[str, Any]
    images: dict[Key, str] = field(default_factory=dict)
    scores: dict[str, dict[Key, float]] = field(default_factory=dict)
    lower_is_better: set[str] = field(default_factory=set)
    subjects: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def pairing(self) -> tuple[Any, ...]:
        return tuple(self.labels[name] for name in PAIRING)

    def add(self, run: Run, subjects: Mapping[tuple[str, str], str]) -> None:
        """Takes in the images, scores and subjects of a run."""
        self.subjects |= subjects
        self.lower_is_better |= lower_is_better(run)
        keys = {image.key: (image.prompt_id, image.prompt, image.seed) for image in run.images}
        self.images |= {keys[image.key]: image.kind for image in run.images}
        for score in run.scores:
            if score.value is not None and score.key in keys:
                self.scores.setdefault(score.metric, {})[keys[score.key]] = score.value


def lower_is_better(run: Run) -> set[str]:
    """The metrics of a run of which a good picture has little."""
    bases: dict[str, Any] = run.record.get("metrics") or {}
    return {
        name
        for name, basis in bases.items()
        if isinstance(basis, dict) and not basis.get("higher_is_better", True)
    }


def collect(runs: Iterable[Run]) -> list[Cell]:
    """Runs gathered into cells; an image that several of them hold counts once.

    Runs that give a prompt other subjects or concavities are other cells, told apart by a digest of
    these.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for run in runs:
        of, subjects = labels(run), subjects_of(run)
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
    rank = list(METHODS.values())

    def order(cell: Cell) -> tuple[Any, ...]:
        method = cell.labels["method"]
        place = rank.index(method) if method in rank else len(rank)
        return (
            *(_place(cell.labels[name]) for name in CONDITIONS),
            place,
            *(_place(cell.labels[name]) for name in METHOD),
        )

    return sorted((cell for group in groups.values() for cell in group), key=order)


def _place(label: Any) -> tuple[float, str]:
    """Where a label stands among others: by the number it begins with, then by its letters."""
    number = re.match(r"-?\d+(\.\d+)?", str(label))
    return float(number[0]) if number else -math.inf, str(label)


def table(
    runs: Iterable[Run],
    metric: str | None = None,
    by_kind: bool = False,
    against: Against | None = None,
) -> list[Row]:
    """One row a cell and metric (and prompt kind): n, mean with 95 % interval, paired difference
    from DM.

    The difference is over the images both have under the same model, prompts, seeds, steps, eta and
    guidance, wherever the prompts were drawn from; it is empty where there is no such DM. Its p is
    of a permutation test, and `p_holm` corrects for all differences of the table. A win is an image
    that is better than DM's. `best` says that the row stands out among those of the same
    conditions. Rows of one metric stand together, the exact one first.

    Args:
        metric: only this one.
        by_kind: beside the row for all images one for the unweighted mean of the kinds' means, and
            one for each kind.
        against: compare with the cell that has this value of a column and is alike in all others,
            instead of with DM.

    Raises:
        UserError: no row has that value.
    """
    cells = collect(runs)
    reference = _references(cells, against)
    rows: list[Row] = []
    rivals: dict[tuple[Any, ...], list[Rival]] = {}
    for cell in cells:
        names = [name for name in sorted(cell.scores) if metric in (None, name)]
        for name in names:
            for kind in _kinds(cell) if by_kind else [Total.ALL]:
                own = _of_kind(cell, name, kind)
                if own:
                    rows.append(_row(cell, name, kind, own, reference(cell, name)))
                    condition = (*cell.pairing, cell.labels["prompt_set"], name, kind)
                    rivals.setdefault(condition, []).append((rows[-1], own, _strata(cell, kind)))
        if not names and metric is None:
            rows.append(_row(cell, "", Total.ALL, {}, {}))
    for together in rivals.values():
        _mark_best(together)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    rows.sort(key=lambda row: (row["metric"] != "exact", row["metric"]))
    return _only_what_differs(rows, by_kind)


def _references(
    cells: Sequence[Cell], against: Against | None
) -> Callable[[Cell, str], Mapping[Key, float]]:
    """What the scores of a cell by a metric are compared with: nothing where it is the reference
    itself."""
    name, value = against or ("method", "DM")
    if against and name not in (*CONDITIONS, *METHOD):
        raise UserError(
            f"--against {name}={value}: no such column; there are "
            f"{', '.join((*METHOD, *CONDITIONS))}"
        )
    alike = [other for other in (*PAIRING, *METHOD) if other != name] if against else list(PAIRING)

    def said(cell: Cell) -> str:
        label = cell.labels[name]
        return str(label[0] if name == "model" else label)

    found: dict[tuple[Any, ...], dict[Key, float]] = {}
    for cell in cells:
        if said(cell) == value:
            for metric, scores in cell.scores.items():
                place = (*(cell.labels[other] for other in alike), metric)
                found.setdefault(place, {}).update(scores)
    if against and not found:
        known = ", ".join(dict.fromkeys(map(said, cells)))
        raise UserError(f"--against {name}={value}: no such row; there are {known}")

    def reference(cell: Cell, metric: str) -> Mapping[Key, float]:
        place = (*(cell.labels[other] for other in alike), metric)
        return {} if said(cell) == value else found.get(place, {})

    return reference


def _kinds(cell: Cell) -> list[Kind]:
    """All images, their mean over the kinds where there are several, and each kind."""
    kinds = sorted(set(cell.images.values()) - {""})
    return [Total.ALL, *([Total.MEAN] if len(kinds) > 1 else []), *kinds]


def _kind_name(kind: Kind) -> str:
    """What a row is called: by the kind, in quotes where that is also the name of a total."""
    if isinstance(kind, Total):
        return str(kind.value)
    return f"'{kind}'" if " ".join(kind.split()) in (ALL, MEAN) else kind


def _strata(cell: Cell, kind: Kind) -> Strata:
    return cell.images if kind is Total.MEAN else None


def _mark_best(rivals: Sequence[Rival]) -> None:
    """Finds the row whose lead over every other one of the same conditions is no chance."""
    sign = 1 if rivals[0][0]["higher_is_better"] else -1
    signed = [
        (row, {key: sign * value for key, value in scores.items()}, strata)
        for row, scores, strata in rivals
    ]
    best, scores, strata = max(signed, key=lambda rival: sign * rival[0]["score"])
    best["best"] = stands_out(
        scores, [other for row, other, _ in signed if row is not best], strata
    )


def _of_kind(cell: Cell, metric: str, kind: Kind) -> Mapping[Key, float]:
    scores = cell.scores.get(metric, {})
    if kind is Total.ALL:
        return scores
    wanted = set(cell.images.values()) - {""} if kind is Total.MEAN else {kind}
    return {key: value for key, value in scores.items() if cell.images[key] in wanted}


def _row(
    cell: Cell, metric: str, kind: Kind, own: Mapping[Key, float], other: Mapping[Key, float]
) -> Row:
    row: Row = {name: cell.labels[name] for name in (*CONDITIONS, *METHOD)}
    row |= {"model": row["model"][0], "weights": row["model"][1], "dtype": row["model"][2]}
    shown = own or cell.images
    row |= {
        "kind": _kind_name(kind),
        "metric": metric,
        "higher_is_better": metric not in cell.lower_is_better,
        "n": len(shown),
        "prompts": len({key[0] for key in shown}),
        "seeds": len({key[2] for key in shown}),
    }
    strata = _strata(cell, kind)
    row |= _interval("score", mean_over(own, strata) if own else None) | {"best": False}
    pair = paired(own, other, strata)
    row |= _interval("difference", pair.difference if pair else None)
    wins, losses = (pair.wins, pair.losses) if pair else (None, None)
    if not row["higher_is_better"]:
        wins, losses = losses, wins
    row |= {
        "pairs": pair.difference.n if pair else None,
        "wins": wins,
        "ties": pair.difference.n - pair.wins - pair.losses if pair else None,
        "losses": losses,
        "p": pair.p if pair else None,
        "p_holm": None,
    }
    return row


def _interval(name: str, interval: Interval | None) -> Row:
    values = (interval.mean, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _only_what_differs(rows: list[Row], by_kind: bool) -> list[Row]:
    """Drops the settings that are the same in every row."""
    candidates = (
        "model",
        "weights",
        "dtype",
        "prompt_set",
        "eta",
        "guidance",
        "height",
        "width",
        "noise",
        "recipe",
        "settings",
        "metric",
    )
    same = {name for name in candidates if len({row[name] for row in rows}) <= 1} - {
        "model",
        "metric",
    }
    if len({(row["model"], row["weights"]) for row in rows}) == len({row["model"] for row in rows}):
        same.add("weights")
    if len({row["threshold"] for row in rows} - {""}) <= 1:
        same.add("threshold")
    if not by_kind:
        same.add("kind")
    first = (
        "model",
        "weights",
        "dtype",
        "prompt_set",
        *ALWAYS,
        "threshold",
        "settings",
        "eta",
        "guidance",
        "height",
        "width",
        "noise",
        "recipe",
        "kind",
        "metric",
    )
    return [{name: row[name] for name in (*first, *row) if name not in same} for row in rows]
