"""Score against cost: every cell of a table by its network evaluations for an image, and the best
for each cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from evaluation.tables import Row
from experiments.figures.lines import (
    ACROSS,
    FACTS,
    OWN,
    Facts,
    facts,
    guidance,
    metric_label,
    scored,
    titles,
    told,
    wrapped,
)
from experiments.figures.style import FAINT, INK, SIZE, WIDTH, Look, looks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FREE = ("steps", *OWN, "guidance", "eta")
"""What one may choose for an image: cells that differ in these compete; in all else they stand in
other panels."""
PANELS, SPREAD, STEP = 4, 0.45, 0.025
"""Panels of a figure; how wide the cells of one cost stand side by side at most, as a share of the
gap to the next; and the most between two of them, as a share of the axis."""


@dataclass(frozen=True)
class Point:
    """One cell: its network evaluations for an image, and its row."""

    evaluations: int
    row: Row

    @property
    def worth(self) -> float:
        """The score, its sign changed where lower is better."""
        score = float(self.row["score"])
        return score if self.row.get("higher_is_better", True) else -score


def evaluations(row: Row) -> int:
    """Of the network for one image: N, twice that with guidance, and twice that where a complete DM
    run comes first.

    Raises:
        UserError: the row does not tell its guidance.
    """
    told_guidance = guidance(row)
    if told_guidance is None:
        raise UserError(
            "guidance: the rows do not tell it, and cost depends on it; give each row its own"
        )
    guided, rehearsed = told_guidance[0] != 1, row["method"] == "AsynDM_static"
    return int(row["steps"]) * (2 if guided else 1) * (2 if rehearsed else 1)


def panels(rows: Sequence[Row]) -> list[tuple[Facts, list[Point]]]:
    """The cells that compete, in rising order of cost; only where there are several costs."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in scored(rows):
        of = facts(row)
        groups.setdefault(tuple(of[name] for name in FACTS if name not in FREE), []).append(row)
    found = []
    for together in groups.values():
        points = sorted(
            (Point(evaluations(row), row) for row in together), key=lambda p: p.evaluations
        )
        if points[0].evaluations < points[-1].evaluations:
            found.append((facts(together[0]), points))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Those better than everything that costs no more, in rising order of cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.evaluations, -p.worth)):
        if not best or point.worth > best[-1].worth:
            best.append(point)
    return best


def figure(rows: Sequence[Row]) -> Figure:
    """A panel for each model and metric, four at most: where there are more, of the exact metric or
    else the first.

    Args:
        rows: of `evaluation.tables.table`, each with its guidance.

    Raises:
        UserError: all cells cost the same.
    """
    from matplotlib.figure import Figure

    found = panels(rows)
    if not found:
        raise UserError("all methods cost the same; sweep num_inference_steps, or guidance_scale")
    if len(found) > PANELS:
        metrics = [str(of["metric"]) for of, _ in found]
        metric = "exact" if "exact" in metrics else metrics[0]
        found = [(of, points) for of, points in found if of["metric"] == metric]
    more, found = len(found) - PANELS, found[:PANELS]
    columns = min(2, len(found))
    height = -(-len(found) // columns)
    one_metric = len({of["metric"] for of, _ in found}) == 1
    known = looks(point.row["method"] for _, points in found for point in points)
    with styled():
        drawn = Figure(figsize=(WIDTH, 2.7 * height + 0.9), layout="constrained")
        grid = drawn.subplots(height, columns, squeeze=False, sharey=one_metric)
        entries: dict[str, Any] = {}
        for axes, (_, points), title in zip(
            grid.flat, found, titles([_without_free(of) for of, _ in found]), strict=False
        ):
            axes.set_title(wrapped(title, ACROSS // columns))
            best = described(points, ACROSS // columns)
            axes.set_xlabel(f"network evaluations per image\n\n{best}")
            if axes.get_subplotspec().is_first_col() or not one_metric:
                axes.set_ylabel(metric_label(points[0].row))
            entries |= _draw(axes, points, known)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_visible(False)
        order = sorted(
            entries, key=lambda name: list(known).index(name) if name in known else len(known)
        )
        drawn.legend(
            [entries[n] for n in order], order, loc="outside lower center", ncols=min(4, len(order))
        )
        note = "cells of one cost stand side by side; bars: 95 %" + (
            f"; {more} more panels not shown" if more > 0 else ""
        )
        drawn.suptitle(note, fontsize=SIZE, color=FAINT)
    return drawn


def _without_free(of: Facts) -> Facts:
    return of | dict.fromkeys(FREE, "")


def _draw(axes: Axes, points: Sequence[Point], known: Mapping[str, Look]) -> dict[str, Any]:
    """The cells with their intervals, filled where they are of the front. Returns what the legend
    names."""
    from matplotlib.lines import Line2D

    best = front(points)
    places = _places(points, list(known))
    axes.set_xscale("log")
    entries: dict[str, Any] = {}
    for point, x in zip(points, places, strict=True):
        row, look = point.row, known[point.row["method"]]
        score, low, high = row["score"], row["score_low"], row["score_high"]
        if math.isfinite(low):
            axes.vlines(x, low, high, color=look.colour, linewidth=0.9, alpha=0.55)
        face = look.colour if point in best else "white"
        mark: dict[str, Any] = {
            "linestyle": "",
            "marker": look.marker,
            "color": look.colour,
            "markersize": 4.5,
        }
        axes.plot(x, score, markerfacecolor=face, zorder=3, **mark)
        entries[row["method"]] = Line2D([], [], markerfacecolor="white", **mark)
    costs, scores = [p.evaluations for p in best], [p.row["score"] for p in best]
    last = points[-1].evaluations
    (entries["best mean for its cost (filled)"],) = axes.plot(
        [*costs, last],
        [*scores, scores[-1]],
        color=INK,
        linewidth=1,
        drawstyle="steps-post",
        zorder=1,
    )
    values = sorted({point.evaluations for point in points})
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.minorticks_off()
    return entries


def _places(points: Sequence[Point], order: Sequence[str]) -> list[float]:
    """x of each: those of one cost side by side on a logarithmic axis, by method; the best, or
    their middle, at their cost."""
    values = sorted({point.evaluations for point in points})
    gaps = dict.fromkeys(values, math.inf)
    for a, b in zip(values, values[1:], strict=False):
        gaps[a], gaps[b] = min(gaps[a], math.log(b / a)), math.log(b / a)
    by_cost: dict[int, list[int]] = {}
    for i in sorted(range(len(points)), key=lambda i: order.index(points[i].row["method"])):
        by_cost.setdefault(points[i].evaluations, []).append(i)
    places, best = [0.0] * len(points), front(points)
    for cost, members in by_cost.items():
        leads = [place for place, i in enumerate(members) if points[i] in best]
        centre = leads[0] if leads else (len(members) - 1) / 2
        step = min(SPREAD * gaps[cost] / len(members), STEP * math.log(values[-1] / values[0]))
        for place, i in enumerate(members):
            places[i] = cost * math.exp(step * (place - centre))
    return places


def described(points: Sequence[Point], width: int) -> str:
    """The front in words, as "best mean at 40: DM_concave, ω 0.5": what tells a cell from others,
    in lines of `width`."""
    of = [facts(point.row) for point in points]
    varied = [name for name in FREE if len({f[name] for f in of} - {""}) > 1]
    if "guidance" not in varied:
        varied = [name for name in varied if name != "steps"]
    lines = []
    for point in front(points):
        settings = told(facts(point.row), varied)
        cell = ", ".join(filter(None, (point.row["method"], settings)))
        lines.append(wrapped(f"best mean at {point.evaluations:,}: {cell}", width))
    return "\n".join(lines)
