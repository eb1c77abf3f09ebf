"""What each method does against the one it is compared with: the paired difference with its 95 %
interval, a line a method, a colour a model, a panel for all that agree in the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from evaluation.cells import MODEL
from evaluation.labels import REFERENCE
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

FREE = (*MODEL, "steps", *OWN)
"""What a panel's rows may differ in: it is said by their colours and names."""
LEAST, MOST = 3, 30
"""Methods that make a figure: fewer are read in the table, more would not fit."""
PANELS, COLUMNS = 4, 2
APART = 0.5
"""The height that the models of a method share, of the distance between two methods."""


@dataclass(frozen=True)
class Panel:
    """Rows that agree in all `read_facts` but `FREE`: by method and model."""

    facts: Facts
    rows: Mapping[tuple[str, str], TableRow]


def find_panels(rows: Sequence[TableRow]) -> list[Panel]:
    """The compared rows by what they agree in, those with an interval alone."""
    compared = [
        row
        for row in select_scored(rows)
        if row["difference"] is not None and math.isfinite(row["difference_low"])
    ]
    names = _name_rows(compared)
    groups: dict[tuple[Any, ...], tuple[Facts, dict[tuple[str, str], TableRow]]] = {}
    for row, name in zip(compared, names, strict=True):
        of = read_facts(row)
        shared = tuple(of[fact] for fact in FACTS if fact not in FREE)
        facts = of | dict.fromkeys(FREE, "")
        groups.setdefault(shared, (facts, {}))[1][name, _name_model(row)] = row
    return [Panel(facts, found) for facts, found in groups.values()]


def _name_rows(rows: Sequence[TableRow]) -> list[str]:
    """What each row's method is called: with its steps where they are not the usual ones, and with
    its curve and the like where the method has several."""
    usual = Counter(row["steps"] for row in rows).most_common(1)
    alike: dict[tuple[Any, ...], list[Facts]] = {}
    for row in rows:
        alike.setdefault((row["method"], row.get("settings", "")), []).append(read_facts(row))
    names = []
    for row in rows:
        of, method = read_facts(row), (row["method"], row.get("settings", ""))
        told = ["steps"] if row["steps"] != usual[0][0] else []
        told += [name for name in OWN if len({str(each[name]) for each in alike[method]}) > 1]
        parts = (" ".join(map(str, filter(None, method))), format_facts(of, told))
        names.append(", ".join(filter(None, parts)))
    return names


def _name_model(row: TableRow) -> str:
    return " ".join(str(row[name]) for name in MODEL if row.get(name))


def draw_figure(rows: Sequence[TableRow], reference: str = REFERENCE) -> Figure:
    """All panels, four at most: where there are more, those of the exact metric or else of the
    first.

    Args:
        rows: of `evaluation.tables.make_table`.
        reference: what they are compared with, in words.

    Raises:
        UserError: too few methods are compared, or too many.
    """
    from matplotlib.figure import Figure

    found = find_panels(rows)
    if len({panel.facts["metric"] for panel in found}) > 1 and len(found) > PANELS:
        metric = min((panel.facts["metric"] for panel in found), key=rank_metric)
        found = [panel for panel in found if panel.facts["metric"] == metric]
    more, found = len(found) - PANELS, found[:PANELS]
    methods = list(dict.fromkeys(name for panel in found for name, _ in panel.rows))
    if len(methods) < LEAST:
        raise UserError(
            f"fewer than {LEAST} methods are compared with {reference}, with intervals; choose "
            "what with by --against"
        )
    if len(methods) > MOST:
        raise UserError(f"{len(methods)} methods are compared, and {MOST} fit; name fewer runs")
    looks = assign_looks(model for panel in found for _, model in panel.rows)
    models = list(dict.fromkeys(model for panel in found for _, model in panel.rows))
    columns = min(COLUMNS, len(found))
    height = -(-len(found) // columns)
    with apply_style():
        size = (WIDTH, height * (0.24 * len(methods) + 0.6) + 0.8)
        drawn = Figure(figsize=size, layout="constrained")
        grid = drawn.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        titles = make_titles([panel.facts for panel in found])
        entries: dict[str, Any] = {}
        for axes, panel, title in zip(grid.flat, found, titles, strict=False):
            axes.set_title(wrap_text(title, ACROSS // columns))
            entries |= _draw_panel(axes, panel, methods, {name: looks[name] for name in models})
            axes.set_xlabel(f"{label_metric(next(iter(panel.rows.values())))}, difference")
        for i, axes in enumerate(grid.flat):
            axes.set_visible(i < len(found))
            axes.tick_params(labelbottom=i >= len(found) - columns)
            axes.xaxis.label.set_visible(i >= len(found) - columns)
        grid.flat[0].set_yticks(range(len(methods)), methods)
        grid.flat[0].set_ylim(len(methods) - 0.5, -0.5)
        if len(models) > 1:
            handles = [entries[name] for name in models]
            drawn.legend(handles, models, loc="outside lower center", ncols=len(models))
        drawn.suptitle(_describe(found, reference, more), fontsize=SIZE, color=FAINT)
    return drawn


def _draw_panel(
    axes: Axes, panel: Panel, methods: Sequence[str], looks: Mapping[str, Look]
) -> dict[str, Any]:
    """The differences of a panel with their intervals. Returns what the legend names."""
    axes.axvline(0, color=INK, linewidth=0.8)
    entries: dict[str, Any] = {}
    for (name, model), row in panel.rows.items():
        look, place = looks[model], list(looks).index(model)
        y = methods.index(name) + APART * ((place + 0.5) / len(looks) - 0.5)
        low, high = row["difference_low"], row["difference_high"]
        axes.hlines(y, low, high, color=look.colour, linewidth=1.4)
        (entries[model],) = axes.plot(
            row["difference"], y, look.marker, color=look.colour, markersize=4.5
        )
    return entries


def _describe(found: Sequence[Panel], reference: str, more: int) -> str:
    """What the differences are from, what the rows have in common, and how many pairs they are
    of."""
    rows = [row for panel in found for row in panel.rows.values()]
    low, high = min(row["pairs"] for row in rows), max(row["pairs"] for row in rows)
    pairs = count_things(low, "pair") if low == high else f"{low:,} to {high:,} pairs"
    models = {_name_model(row) for row in rows}
    parts = [f"minus {reference}", *(models if len(models) == 1 else ()), pairs, "bars: 95 %"]
    parts += [f"{count_things(more, 'panel')} more not shown"] if more > 0 else []
    return wrap_text(", ".join(parts), ACROSS)
