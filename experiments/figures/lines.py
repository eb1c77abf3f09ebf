"""Score against one numeric setting, a line a method with its 95 % band, a panel for all that agree
in the rest."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from asyndm.guidance import Guidance
from evaluation.cells import CONDITIONS, MODEL
from evaluation.labels import GuidanceLabel
from evaluation.messages import count_things
from evaluation.tables import TableRow, Total, name_part, rank_metric
from experiments.figures.style import FAINT, SIZE, WIDTH, Look, apply_style, assign_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS = {
    "steps": "denoising steps",
    "concavity": "concavity ω",
    "threshold": "mask threshold",
    "guidance": "guidance scale",
    "eta": "η",
}
"""The settings a line can run along, and what its axis says."""
OWN = ("curve", "concavity", "threshold")
"""Settings of a method that others may not have: these then stand in every panel."""
FACTS = ("metric", *MODEL, "prompt_set", "beside", *CONDITIONS[2:], *OWN)
TOLD = {
    "steps": "{} steps",
    "eta": "η {}",
    "guidance": "guidance {}",
    "concavity": "ω {}",
    "beside": "{}",
}
LEAST, PANELS, COLUMNS = 3, 6, 3
"""Values that make a line, and panels that make a figure."""
ACROSS = 78
"""Characters across a figure."""
NO_BREAK = "\u00a0"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One method. Without `xs` it does not have the setting: one score holds for all values."""

    name: str
    xs: tuple[float, ...]
    rows: tuple[TableRow, ...]

    @property
    def settings(self) -> str:
        """What else was chosen for the method, such as its subjects; "" where nothing."""
        return str(self.rows[0].get("settings", ""))

    def column(self, name: str) -> list[float]:
        """One key of its rows; what is unknown is no number."""
        return [value if math.isfinite(value := row[name]) else math.nan for row in self.rows]


@dataclass(frozen=True)
class Panel:
    """Lines that agree in all `read_facts`."""

    facts: Facts
    lines: tuple[Line, ...]


def read_facts(row: TableRow) -> Facts:
    """Every setting of a row; "" is one that it does not have, or that is the same in all rows."""
    guidance: GuidanceLabel | None = row.get("guidance")
    known = row
    if guidance is not None:
        known = row | {"guidance": guidance.scale, "beside": guidance.rest or Guidance.name}
    return {name: "" if (value := known.get(name)) is None else value for name in FACTS}


def select_scored(rows: Iterable[TableRow]) -> list[TableRow]:
    """The rows that have a score, of all prompt kinds together."""
    whole = name_part(Total.ALL)
    return [row for row in rows if row.get("score") is not None and row.get("kind", whole) == whole]


def find_varied(rows: Sequence[TableRow]) -> list[str]:
    """The settings that take at least three values under one method while all else is equal."""
    return [setting for setting in SETTINGS if find_panels(rows, setting)]


def find_panels(rows: Sequence[TableRow], setting: str) -> list[Panel]:
    """The rows by what they agree in but for the setting; none where it takes too few values."""
    groups: dict[tuple[Any, ...], list[tuple[Facts, TableRow]]] = {}
    for row in select_scored(rows):
        of = read_facts(row)
        shared = tuple(of[name] for name in FACTS if name not in (setting, *OWN))
        groups.setdefault(shared, []).append((of, row))
    found = []
    for together in groups.values():
        for own in _find_owns(together, setting):
            members = [(of, row) for of, row in together if _agrees(of, own)]
            lines = _make_lines(members, setting)
            if lines:
                found.append(Panel(members[0][0] | {setting: ""} | own, lines))
    return found


def _find_owns(together: Sequence[tuple[Facts, TableRow]], setting: str) -> list[Facts]:
    """The methods' own settings under which one of them has a line; not those that another of these
    includes."""
    values: dict[tuple[Any, ...], set[float]] = {}
    for of, row in together:
        if of[setting] != "":
            own = tuple((name, of[name]) for name in OWN if name != setting)
            values.setdefault((own, _name_line(row)), set()).add(of[setting])
    owns = [dict(own) for (own, _), taken in values.items() if len(taken) >= LEAST]
    different = [own for i, own in enumerate(owns) if own not in owns[:i]]
    return [
        own
        for own in different
        if not any(other != own and _agrees(own, other) for other in different)
    ]


def _agrees(of: Facts, own: Facts) -> bool:
    return all(of[name] in ("", value) for name, value in own.items())


def _name_line(row: TableRow) -> str:
    return f"{row['method']} {row.get('settings', '')}".strip()


def _make_lines(members: Sequence[tuple[Facts, TableRow]], setting: str) -> tuple[Line, ...]:
    """A line a method; a level one of other settings than those that run along the axis is none of
    theirs."""
    by_name: dict[str, list[tuple[Any, TableRow]]] = {}
    for of, row in members:
        by_name.setdefault(_name_line(row), []).append((of[setting], row))
    lines = []
    for name, points in by_name.items():
        ordered = sorted((p for p in points if p[0] != ""), key=lambda p: float(p[0]))
        if len(ordered) > 1:
            lines.append(Line(name, *(tuple(column) for column in zip(*ordered, strict=True))))
        elif not ordered and len(points) == 1 and setting in OWN:
            lines.append(Line(name, (), (points[0][1],)))
    alike = {"", *(line.settings for line in lines if line.xs)}
    return tuple(line for line in lines if line.settings in alike)


def make_titles(of: Sequence[Facts]) -> list[str]:
    """For each panel what tells it from the others, in as few settings as do; its metric stands at
    its axis."""
    chosen = ["metric"]
    for name in FACTS:
        if len({_pick_values(f, [*chosen, name]) for f in of}) > len(
            {_pick_values(f, chosen) for f in of}
        ):
            chosen.append(name)
    return [format_facts(f, chosen[1:]) for f in of]


def _pick_values(of: Facts, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(of[name]) for name in names)


def format_facts(of: Mapping[str, Any], names: Iterable[str]) -> str:
    """These settings as people say them: "shapes, 20 steps, ω 0.5"."""
    parts = []
    for name in names:
        value = f"{of[name]:g}" if isinstance(of[name], float) else str(of[name])
        plain = value.replace("_", " ") if name == "curve" else value
        form = (
            "{}" if name in ("model", "curve") else TOLD.get(name, f"{name.replace('_', ' ')} {{}}")
        )
        parts += [form.format(plain)] if value else []
    return ", ".join(parts)


def wrap_text(text: str, width: int) -> str:
    """Lines of so many characters, broken after commas, and within what is longer than a line."""
    parts = [
        part if len(part) > width else part.replace(" ", NO_BREAK) for part in text.split(", ")
    ]
    return textwrap.fill(", ".join(parts), width).replace(NO_BREAK, " ")


def describe_shared(of: Sequence[Facts], rows: Sequence[TableRow]) -> str:
    """What all panels have in common, and how many images each point rests on."""
    same = [
        name
        for name in ("model", "steps", "beside", "guidance", "eta", *OWN)
        if len({f[name] for f in of}) == 1 and f"{of[0][name]}" != Guidance.name
    ]
    low, high = min(row["n"] for row in rows), max(row["n"] for row in rows)
    images = count_things(low, "image") if low == high else f"{low:,} to {high:,} images"
    return ", ".join(filter(None, (format_facts(of[0], same), images)))


def label_metric(row: TableRow) -> str:
    """The metric with an arrow to where the good pictures are."""
    return f"{row['metric']} {'↑' if row.get('higher_is_better', True) else '↓'}"


def draw_figure(rows: Sequence[TableRow], setting: str) -> Figure:
    """All panels of one setting, six at most: where there are more, those of the exact metric or
    else of the first.

    Raises:
        UserError: the setting takes fewer than three values while all else is equal.
    """
    found = find_panels(rows, setting)
    if not found:
        raise UserError(
            f"{setting}: takes fewer than {LEAST} values with all else equal; sweep more of them"
        )
    if len(found) > PANELS:
        metric = min((panel.facts["metric"] for panel in found), key=rank_metric)
        found = [panel for panel in found if panel.facts["metric"] == metric]
    more, found = len(found) - PANELS, found[:PANELS]
    columns = 2 if len(found) == 4 else min(COLUMNS, len(found))
    height = -(-len(found) // columns)
    one_metric = len({panel.facts["metric"] for panel in found}) == 1
    from matplotlib.figure import Figure

    with apply_style():
        drawn = Figure(
            figsize=(WIDTH, 2.2 * height + (1.0 if columns > 1 else 1.4)), layout="constrained"
        )
        grid = drawn.subplots(height, columns, squeeze=False, sharex=True, sharey=one_metric)
        known = assign_looks(line.name for panel in found for line in panel.lines)
        entries: dict[str, Any] = {}
        for axes, panel, title in zip(
            grid.flat, found, make_titles([p.facts for p in found]), strict=False
        ):
            axes.set_title(wrap_text(title, ACROSS // columns))
            entries = _draw_panel(axes, panel, known) | entries
            if axes.get_subplotspec().is_first_col() or not one_metric:
                axes.set_ylabel(label_metric(panel.lines[0].rows[0]))
        _set_ticks(grid.flat[0], setting, found)
        for i, axes in enumerate(grid.flat):
            axes.set_visible(i < len(found))
            axes.tick_params(labelbottom=i >= len(found) - columns)
            if i >= columns * (height - 1):
                axes.set_xlabel(SETTINGS[setting])
        order = sorted(entries, key=list(known).index)
        drawn.legend(
            [entries[n] for n in order], order, loc="outside lower center", ncols=min(3, len(order))
        )
        note = describe_shared(
            [p.facts for p in found], [r for p in found for line in p.lines for r in line.rows]
        )
        note += f"; {more} more not shown" if more > 0 else ""
        note += "; bands: 95 % of each alone (differences: the table)"
        drawn.suptitle(wrap_text(note, ACROSS), fontsize=SIZE, color=FAINT)
    return drawn


def _draw_panel(axes: Axes, panel: Panel, known: Mapping[str, Look]) -> dict[str, Any]:
    """The lines of a panel with their bands. Returns them by name."""
    drawn = {}
    for line in panel.lines:
        look = known[line.name]
        scores, lows, highs = (line.column(name) for name in ("score", "score_low", "score_high"))
        stroke: dict[str, Any] = {
            "color": look.colour,
            "linestyle": look.dashes,
            "label": line.name,
        }
        band: dict[str, Any] = {
            "facecolor": (look.colour, 0.13),
            "edgecolor": (look.colour, 0.5),
            "linewidth": 0.6,
        }
        if line.xs:
            axes.fill_between(line.xs, lows, highs, linestyle=look.dashes, **band)
            (drawn[line.name],) = axes.plot(
                line.xs, scores, marker=look.marker, markersize=4.5, **stroke
            )
        else:
            axes.axhspan(lows[0], highs[0], linestyle=look.dashes, **band)
            drawn[line.name] = axes.axhline(scores[0], **stroke)
    return drawn


def _set_ticks(axes: Axes, setting: str, found: Sequence[Panel]) -> None:
    """Ticks at the values taken, where these are few; steps by their ratio."""
    values = sorted({x for panel in found for line in panel.lines for x in line.xs})
    if setting == "steps":
        axes.set_xscale("log")
    if len(values) <= 7:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
