"""Score against cost: every cell of a table by its network evaluations for an image, and the best
for each cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from evaluation.labels import BACKWARD, MethodLabel, weigh_rows
from evaluation.messages import count_things
from evaluation.tables import TableRow, rank_metric
from experiments.figures.lines import (
    ACROSS,
    FACTS,
    OWN,
    Facts,
    format_facts,
    label_metric,
    make_titles,
    read_facts,
    select_scored,
    wrap_text,
)
from experiments.figures.style import FAINT, INK, SIZE, WIDTH, Look, apply_style, assign_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FREE = ("steps", *OWN, "beside", "guidance", "eta", "solver")
"""What one may choose for an image: cells that differ in these compete; in all else they stand in
other panels."""
PANELS, SPREAD, STEP, APART = 4, 0.45, 0.025, 0.07
"""Panels of a figure; how wide the cells of one cost stand side by side at most, as a share of the
gap to the next; the most between two of them, and the least between two ticks, as shares of the
axis."""


@dataclass(frozen=True)
class Point:
    """One cell: its network evaluations for an image, and its row."""

    evaluations: float
    row: TableRow

    @property
    def worth(self) -> float:
        """The score, its sign changed where lower is better."""
        score = float(self.row["score"])
        return score if self.row.get("higher_is_better", True) else -score


def read_evaluations(row: TableRow) -> float | None:
    """Of the network for one image, as the runs have counted them; of runs that did not count, a
    forecast, or None where there is none. A gradient counts as `evaluation.labels.BACKWARD`."""
    told: float | None = row.get("evaluations")
    method: MethodLabel = row["method"]
    if told is not None:
        rows = weigh_rows(told, row.get("backward") or 0)
    elif method.forecast is not None:
        rows = weigh_rows(method.forecast.forward, method.forecast.backward)
    else:
        return None
    return int(rows) if rows == int(rows) else round(rows, 2)


def find_panels(rows: Sequence[TableRow]) -> list[tuple[Facts, list[Point]]]:
    """The cells that compete, in rising order of cost; only where there are several costs. A cell
    whose cost is not known is left out."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for row in select_scored(rows):
        cost, of = read_evaluations(row), read_facts(row)
        if cost is not None:
            shared = tuple(of[name] for name in FACTS if name not in FREE)
            groups.setdefault(shared, []).append(Point(cost, row))
    found = []
    for together in groups.values():
        points = sorted(together, key=lambda point: point.evaluations)
        if points[0].evaluations < points[-1].evaluations:
            found.append((read_facts(together[0].row), points))
    return found


def find_front(points: Sequence[Point]) -> list[Point]:
    """Those better than everything that costs no more, in rising order of cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.evaluations, -p.worth)):
        if not best or point.worth > best[-1].worth:
            best.append(point)
    return best


def draw_figure(rows: Sequence[TableRow]) -> Figure:
    """A panel for each model and metric, four at most: where there are more, of the exact metric or
    else the first.

    Args:
        rows: of `evaluation.tables.make_table`.

    Raises:
        UserError: all cells cost the same, or what they cost is not known.
    """
    from matplotlib.figure import Figure

    found = find_panels(rows)
    unknown = _count_unknown(rows)
    if not found and unknown:
        raise UserError(
            f"the cost of {count_things(unknown, 'cell')} is not known: neither the runs nor their "
            "guidance tell their network evaluations; make such runs anew"
        )
    if not found:
        raise UserError("all methods cost the same; sweep num_inference_steps, or guidance_scale")
    if len(found) > PANELS:
        metric = min((str(of["metric"]) for of, _ in found), key=rank_metric)
        found = [(of, points) for of, points in found if of["metric"] == metric]
    more, found = len(found) - PANELS, found[:PANELS]
    columns = min(2, len(found))
    height = -(-len(found) // columns)
    one_metric = len({of["metric"] for of, _ in found}) == 1
    known = assign_looks(point.row["method"] for _, points in found for point in points)
    with apply_style():
        drawn = Figure(figsize=(WIDTH, 2.7 * height + 0.9), layout="constrained")
        grid = drawn.subplots(height, columns, squeeze=False, sharey=one_metric)
        entries: dict[str, Any] = {}
        for axes, (_, points), title in zip(
            grid.flat, found, make_titles([_clear_free(of) for of, _ in found]), strict=False
        ):
            axes.set_title(wrap_text(title, ACROSS // columns))
            best = describe_front(points, ACROSS // columns)
            axes.set_xlabel(f"network evaluations per image\n\n{best}")
            if axes.get_subplotspec().is_first_col() or not one_metric:
                axes.set_ylabel(label_metric(points[0].row))
            entries |= _draw_panel(axes, points, known)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_visible(False)
        order = sorted(
            entries, key=lambda name: list(known).index(name) if name in known else len(known)
        )
        drawn.legend(
            [entries[n] for n in order], order, loc="outside lower center", ncols=min(4, len(order))
        )
        note = "cells of one cost stand side by side; bars: 95 %"
        note += f"; {more} more panels not shown" if more > 0 else ""
        differentiated = any(point.row.get("backward") for _, points in found for point in points)
        note += f"; a row backward counts as {BACKWARD}" if differentiated else ""
        note += f"; {count_things(unknown, 'cell')} of unknown cost not shown" if unknown else ""
        drawn.suptitle(note, fontsize=SIZE, color=FAINT)
    return drawn


def _count_unknown(rows: Sequence[TableRow]) -> int:
    """The cells whose cost is not known, each once whatever its metrics."""
    cells = Counter(row["metric"] for row in select_scored(rows) if read_evaluations(row) is None)
    return max(cells.values(), default=0)


def _clear_free(of: Facts) -> Facts:
    return of | dict.fromkeys(FREE, "")


def _draw_panel(axes: Axes, points: Sequence[Point], known: Mapping[str, Look]) -> dict[str, Any]:
    """The cells with their intervals, filled where they are of the front. Returns what the legend
    names."""
    from matplotlib.lines import Line2D

    best = find_front(points)
    xs = _spread_points(points, list(known))
    axes.set_xscale("log")
    entries: dict[str, Any] = {}
    for point, x in zip(points, xs, strict=True):
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
    values = _choose_ticks([point.evaluations for point in points])
    axes.set_xticks(values, [_format_cost(value) for value in values])
    axes.minorticks_off()
    return entries


def _choose_ticks(costs: Iterable[float]) -> list[float]:
    """Each cost, but for those too near to the one before them for both to be read."""
    values = sorted(set(costs))
    apart = APART * math.log(values[-1] / values[0])
    ticks = values[:1]
    for value in values[1:]:
        if math.log(value / ticks[-1]) >= apart:
            ticks.append(value)
    return ticks


def _format_cost(value: float) -> str:
    """As "1,000" or "62.5"."""
    return f"{round(value, 1):,.10g}"


def _spread_points(points: Sequence[Point], order: Sequence[str]) -> list[float]:
    """x of each: those of one cost side by side on a logarithmic axis, by method; the best, or
    their middle, at their cost."""
    values = sorted({point.evaluations for point in points})
    gaps = dict.fromkeys(values, math.inf)
    for a, b in zip(values, values[1:], strict=False):
        gaps[a], gaps[b] = min(gaps[a], math.log(b / a)), math.log(b / a)
    by_cost: dict[float, list[int]] = {}
    for i in sorted(range(len(points)), key=lambda i: order.index(points[i].row["method"])):
        by_cost.setdefault(points[i].evaluations, []).append(i)
    xs, best = [0.0] * len(points), find_front(points)
    for cost, members in by_cost.items():
        leads = [rank for rank, i in enumerate(members) if points[i] in best]
        centre = leads[0] if leads else (len(members) - 1) / 2
        step = min(SPREAD * gaps[cost] / len(members), STEP * math.log(values[-1] / values[0]))
        for rank, i in enumerate(members):
            xs[i] = cost * math.exp(step * (rank - centre))
    return xs


def describe_front(points: Sequence[Point], width: int) -> str:
    """The front in words, as "best mean at 40: DM_concave, ω 0.5": what tells a cell from others,
    in lines of `width`."""
    of = [read_facts(point.row) for point in points]
    varied = [name for name in FREE if len({f[name] for f in of} - {""}) > 1]
    if "guidance" not in varied:
        varied = [name for name in varied if name != "steps"]
    lines = []
    for point in find_front(points):
        settings = format_facts(read_facts(point.row), varied)
        cell = ", ".join(filter(None, (point.row["method"], settings)))
        lines.append(wrap_text(f"best mean at {_format_cost(point.evaluations)}: {cell}", width))
    return "\n".join(lines)
