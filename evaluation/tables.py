"""From runs to a table: one row a method and setting, with its interval and its paired difference
from DM."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from asyndm.errors import UserError
from evaluation.cells import (
    CONDITIONS,
    METHOD,
    MODEL,
    PAIRING,
    SCORE,
    SHARED,
    Cell,
    Opinion,
    SeededPrompt,
    collect_cells,
)
from evaluation.metrics.exact import Exact
from evaluation.runs.folder import Run
from evaluation.runs.rows import COUNTS
from evaluation.statistics import Interval, compare_pairs, holm, mean_over, stands_out

ALWAYS = ("method", "curve", "concavity", "steps")
TableRow = dict[str, Any]
Against = tuple[str, str]
"""A column of the labels and one of its values, as text: ("guidance", "2")."""
Strata = Mapping[SeededPrompt, str] | None
"""The kind of each image, where a mean is that of the kinds' means."""


class Total(Enum):
    """Rows of all pictures together, and of the unweighted mean of the kinds' means, as GenEval
    publishes it; the value is what they are called."""

    ALL = "all"
    MEAN = "mean of kinds"


Part = Total | str
"""The images that a row is of: a total, or a prompt kind, none of whose names is a total."""
Rival = tuple[TableRow, Mapping[SeededPrompt, float], Strata]


def rank_metric(name: str) -> tuple[bool, str]:
    """Where a metric stands among others: first the exact one, by which all others are judged, then
    by name."""
    return name != Exact.name, name


def make_table(
    runs: Iterable[Run],
    metric: str | None = None,
    by_kind: bool = False,
    against: Sequence[Against] = (),
) -> list[TableRow]:
    """One row a cell and metric (and prompt kind): n, mean with 95 % interval, paired difference
    from DM, the method that does not bend.

    The difference is over the images both have under the same model, prompts, seeds, steps, eta,
    guidance and solver, wherever the prompts were drawn from; it is empty where there is no such
    DM. Its p is of a permutation test, and `p_holm` corrects for all differences of the table. A
    win is an image that is better than DM's. `evaluations` are of the network for one image, and
    `backward` those it was differentiated for, each left out where no run tells any. `best` says
    that the row stands out among those of the same conditions. What a metric counts (`COUNTS`) has
    a mean and a paired difference, each with its interval and without a test, where every score
    comes with it. Rows of one metric stand together, the exact one first.

    Args:
        metric: only this one.
        by_kind: beside the row for all images one for the unweighted mean of the kinds' means, and
            one for each kind.
        against: compare with the cell that has these values of columns and is alike in all others,
            instead of with DM: so also with one of another guidance, or of other steps. If it does
            not bend, it has no curve to be alike in.

    Raises:
        UserError: no row has these values.
    """
    cells = collect_cells(runs)
    reference = _find_references(cells, against)
    rows: list[TableRow] = []
    rivals: dict[tuple[Hashable, ...], list[Rival]] = {}
    for cell in cells:
        names = [name for name in sorted(cell.opinions) if metric in (None, name)]
        for name in names:
            for part in _list_parts(cell) if by_kind else [Total.ALL]:
                own = _select_images(cell, name, part)
                if own[SCORE]:
                    rows.append(_make_row(cell, name, part, own, reference(cell, name)))
                    condition = (*cell.pairing, cell.labels["prompt_set"], name, part)
                    rivals.setdefault(condition, []).append(
                        (rows[-1], own[SCORE], _find_strata(cell, part))
                    )
        if not names and metric is None:
            rows.append(_make_row(cell, "", Total.ALL, {}, {}))
    for together in rivals.values():
        _mark_best(together)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    rows.sort(key=lambda row: rank_metric(row["metric"]))
    return _drop_shared_columns(rows, by_kind)


def _find_references(
    cells: Sequence[Cell], against: Sequence[Against]
) -> Callable[[Cell, str], Opinion]:
    """What a metric's opinion of a cell is compared with: nothing where it is the reference
    itself."""
    _check_against(cells, against)
    given = dict(against)

    def is_reference(cell: Cell) -> bool:
        chosen = all(_is_value(cell, name, value) for name, value in against)
        return chosen if against else not cell.method.bends

    references = list(filter(is_reference, cells))
    # What does not bend is one method, whatever its curve: what bends may be compared with it.
    straight = not any(cell.method.bends for cell in references)
    known = PAIRING if straight and "method" in (given or METHOD) else (*PAIRING, *METHOD)
    alike = [name for name in known if name not in given]

    def find_condition(cell: Cell, metric: str) -> tuple[Hashable, ...]:
        return (*(cell.labels[name] for name in alike), metric)

    found: dict[tuple[Hashable, ...], Opinion] = {}
    for cell in references:
        for metric, opinion in cell.opinions.items():
            gathered = found.setdefault(find_condition(cell, metric), {})
            for name, numbers in opinion.items():
                gathered.setdefault(name, {}).update(numbers)

    def reference(cell: Cell, metric: str) -> Opinion:
        return {} if is_reference(cell) else found.get(find_condition(cell, metric), {})

    return reference


def _read_value(cell: Cell, column: str) -> str:
    """As ``--against`` has it; of a model its name."""
    label = cell.labels[column]
    return str(label[0] if column == "model" else label)


def _is_value(cell: Cell, column: str, value: str) -> bool:
    """Whether a cell has this value there; of a number, whatever way it is written."""
    own = _read_value(cell, column)
    try:
        return own == value or float(own) == float(value)
    except ValueError:
        return False


def _check_against(cells: Sequence[Cell], against: Sequence[Against]) -> None:
    """Refuses what no cell is, with the first value that none has beside those before it.

    Raises:
        UserError: no such column, a column twice, or no such row.
    """
    left, said, columns = list(cells), "", (*METHOD, *CONDITIONS)
    for name, value in against:
        asked = f"--against {name}={value}"
        if name not in columns:
            raise UserError(f"{asked}: no such column; there are {', '.join(columns)}")
        if len([column for column, _ in against if column == name]) > 1:
            raise UserError(f"{asked}: given twice; a row has one {name}")
        known = ", ".join(dict.fromkeys(_read_value(cell, name) or "''" for cell in left))
        left = [cell for cell in left if _is_value(cell, name, value)]
        if not left:
            raise UserError(f"{asked}: no such row{said}; there are {known}")
        said += f"{' and' if said else ' of'} {name}={value}"


def _list_parts(cell: Cell) -> list[Part]:
    """All images, their mean over the kinds where there are several, and each kind."""
    kinds = sorted(set(cell.images.values()) - {""})
    return [Total.ALL, *([Total.MEAN] if len(kinds) > 1 else []), *kinds]


def name_part(part: Part) -> str:
    """What a row is called: by the kind, in quotes where that is also the name of a total."""
    if isinstance(part, Total):
        return str(part.value)
    totals = [total.value for total in Total]
    return f"'{part}'" if " ".join(part.split()) in totals else part


def _find_strata(cell: Cell, part: Part) -> Strata:
    return cell.images if part is Total.MEAN else None


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


def _select_images(cell: Cell, metric: str, part: Part) -> Opinion:
    opinion = cell.opinions[metric]
    if part is Total.ALL:
        return opinion
    wanted = set(cell.images.values()) - {""} if part is Total.MEAN else {part}
    return {
        name: {key: number for key, number in numbers.items() if cell.images[key] in wanted}
        for name, numbers in opinion.items()
    }


def _make_row(
    cell: Cell,
    metric: str,
    part: Part,
    own: Opinion,
    other: Opinion,
) -> TableRow:
    scores = own.get(SCORE, {})
    row: TableRow = {name: cell.labels[name] for name in (*CONDITIONS, *METHOD)}
    row |= {"model": row["model"][0], "weights": row["model"][1], "dtype": row["model"][2]}
    shown = scores or cell.images
    row |= {
        "evaluations": cell.evaluations,
        "backward": cell.backward,
        "kind": name_part(part),
        "metric": metric,
        "higher_is_better": metric not in cell.lower_is_better,
        "n": len(shown),
        "prompts": len({key[0] for key in shown}),
        "seeds": len({key[2] for key in shown}),
    }
    strata = _find_strata(cell, part)
    row |= make_interval_cells(SCORE, mean_over(scores, strata) if scores else None)
    row["best"] = False
    pair = compare_pairs(scores, other.get(SCORE, {}), strata)
    row |= make_interval_cells("difference", pair.difference if pair else None)
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
    for name in COUNTS:
        row |= _make_count_cells(name, own, other, strata)
    return row


def _make_count_cells(name: str, own: Opinion, other: Opinion, strata: Strata) -> TableRow:
    """The mean of what is counted and its difference from the other's; none where some of the
    images that have a score were not counted."""
    counts, (mean, difference) = own.get(name, {}), name_count_columns(name)
    found = mean_over(counts, strata) if counts and len(counts) == len(own[SCORE]) else None
    pair = compare_pairs(counts, other.get(name, {}), strata) if found else None
    if pair and pair.difference.n < len(own[SCORE].keys() & other[SCORE].keys()):
        pair = None
    if found and math.isfinite(found.low):  # below 20 prompts Student's t knows no floor
        found = replace(found, low=max(0.0, found.low))
    return make_interval_cells(mean, found) | make_interval_cells(
        difference, pair.difference if pair else None
    )


def name_count_columns(name: str) -> tuple[str, str]:
    """The columns of a count's mean over the images, and of its difference from the reference."""
    return f"{name}_per_image", f"{name}_difference"


def make_interval_cells(name: str, interval: Interval | None) -> TableRow:
    """The columns of an interval: ``name``, and its ends ``name_low`` and ``name_high``."""
    values = (interval.mean, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip(_list_interval_columns(name), values, strict=True))


def _list_interval_columns(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _drop_shared_columns(rows: list[TableRow], by_kind: bool) -> list[TableRow]:
    """Drops the settings that are the same in every row."""
    candidates = (*MODEL, "prompt_set", *SHARED, "settings", "metric")
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
    if all(row["evaluations"] is None for row in rows):
        same.add("evaluations")
    if not any(row["backward"] for row in rows):
        same.add("backward")
    for name in COUNTS:
        if all(row[name_count_columns(name)[0]] is None for row in rows):
            same.update(_list_interval_columns(*name_count_columns(name)))
    first = (
        *MODEL,
        "prompt_set",
        *ALWAYS,
        "evaluations",
        "backward",
        "threshold",
        "settings",
        *SHARED,
        "kind",
        "metric",
    )
    return [{name: row[name] for name in (*first, *row) if name not in same} for row in rows]
