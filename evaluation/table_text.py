"""A table as people read it: the same cells in Markdown, LaTeX and HTML, all numbers in CSV, and
what must be said."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.terminal import printable
from evaluation.choices import summarize_class
from evaluation.labels import REFERENCE
from evaluation.messages import count_things
from evaluation.runs.folder import Run
from evaluation.runs.rows import COUNTS
from evaluation.statistics import MANY
from evaluation.tables import TableRow, Total, name_count_columns, name_part

MEAN = name_part(Total.MEAN)
STATISTICS = (
    "95 % intervals: of right-or-wrong scores with one image a prompt, or all alike, Wilson's "
    "over prompts; otherwise, and of all differences, a bootstrap over prompts, or Student's t "
    "below 20 of them. Differences are of the same prompts and seeds, all else equal; p of a "
    "permutation test that swaps the methods in whole prompts, by Holm's correction over the "
    "table. Bold: better than every other row of the same conditions, by paired intervals that "
    "hold together for these rows; not corrected over the table."
)
LARGE = (
    f"Of {MANY:,} prompts and more, Student's t stands for the bootstrap, and the permuted sums "
    "are taken as normal."
)
KINDS = (
    f"The {MEAN} is unweighted, as GenEval's overall score is. Its intervals are made of the "
    "kinds' own (MOVER: an end is as far away as the root of their squared distances' sum, "
    "divided by the number of kinds); "
    "in its permutation test a prompt counts by its share of its kind."
)
COUNTED = (
    "Surplus and missing: how many things an image has more, and fewer, than asked for; little is "
    "good. Intervals are made as the score's. Differences are of the same pairs, and not tested: "
    "nothing of them is corrected over the table."
)
DIFFERENCES = ("difference", *(name_count_columns(name)[1] for name in COUNTS))
INTERVALS = ("score", *(name_count_columns(name)[0] for name in COUNTS), *DIFFERENCES)
SHARED = (
    "Prompts share their seeds here, so all were drawn from the same few noises: the intervals "
    "speak of other prompts, not of other noises. With noise=own each prompt has its own."
)
HIDDEN = {"losses", "ties", "p", "best", "higher_is_better"} | {
    f"{name}_{end}" for name in INTERVALS for end in ("low", "high")
}
SIZES = ("n", "prompts", "seeds")


@dataclass(frozen=True)
class Layout:
    """A table to read, as plain text; `bold` are the (row, column) of cells that stand out."""

    heads: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]]


def lay_out(rows: Sequence[TableRow], reference: str = REFERENCE) -> Layout:
    """Heads and cells, without empty columns; `reference` is what differences are from.

    The number of pairs is shown where it is not that of the images, those of prompts and seeds
    where they are not the same in all rows.
    """
    hidden = set(HIDDEN)
    if all(row["pairs"] in (None, row["n"]) for row in rows):
        hidden.add("pairs")
    if len({tuple(row[name] for name in SIZES) for row in rows}) == 1:
        hidden.update(SIZES)
    names = [
        name
        for name in rows[0]
        if name not in hidden and any(row[name] not in (None, "") for row in rows)
    ]
    heads = {
        "score": "score [95 %]",
        "difference": f"difference from {reference} [95 %]",
        "wins": "wins-ties-losses",
        "p_holm": "p (Holm)",
        "n": "images",
    }
    for count in COUNTS:
        mean, difference = name_count_columns(count)
        heads |= {
            mean: f"{count} per image [95 %]",
            difference: f"{count}, difference [95 %]",
        }
    bold = {(i, names.index("score")) for i, row in enumerate(rows) if row["best"]}
    return Layout(
        tuple(heads.get(name, name) for name in names),
        tuple(tuple(_format_cell(row, name) for name in names) for row in rows),
        frozenset(bold),
    )


def write_notes(
    rows: Sequence[TableRow], runs: Sequence[Run], config_dirs: Iterable[Path] = ()
) -> list[str]:
    """What a table must say beside its numbers: how many images, what each metric is, which
    statistics.

    Args:
        rows: of the table.
        runs: they are of.
        config_dirs: folders of the caller's own metrics, beside ``conf``.
    """
    sizes = {tuple(row[name] for name in SIZES) for row in rows}
    lines = []
    if len(sizes) == 1:
        ((n, prompts, seeds),) = sizes
        of = f"{count_things(prompts, 'prompt')} and {count_things(seeds, 'seed')}"
        lines.append(f"Every row: {count_things(n, 'image')}, of {of}.")
    if any(prompts > 1 and seeds < n for n, prompts, seeds in sizes):
        lines.append(SHARED)
    shown = {row["metric"] for row in rows}
    lines += note_kindless(runs) if "kind" in rows[0] else []
    lines += [
        f"{name}: {text}"
        for name, text in describe_metrics(runs, config_dirs).items()
        if name in shown
    ]
    return [*lines, *note_statistics(rows)]


def note_kindless(runs: Iterable[Run]) -> list[str]:
    """How many pictures are in no row of a kind, as their prompts have none."""
    images = [image for run in runs for image in run.images]
    count = sum(not image.kind for image in images)
    if not count:
        return []
    verb = "has" if count == 1 else "have"
    return [
        f"{count:,} of {count_things(len(images), 'image')} {verb} no kind: in no kind's row, "
        f"and not in the {MEAN}."
    ]


def note_statistics(rows: Sequence[TableRow]) -> list[str]:
    """By which methods the intervals and tests of a table are made."""
    lines = [STATISTICS]
    lines += [LARGE] if any(row["prompts"] >= MANY for row in rows) else []
    lines += [KINDS] if any(row.get("kind") == MEAN for row in rows) else []
    counted = [name_count_columns(name)[0] for name in COUNTS]
    return lines + ([COUNTED] if any(name in rows[0] for name in counted) else [])


def describe_metrics(runs: Iterable[Run], config_dirs: Iterable[Path] = ()) -> dict[str, str]:
    """Metric -> what it is and what its numbers rest on, as the runs tell; all of it where they
    differ."""
    told: dict[str, dict[str, None]] = {}
    folders = tuple(config_dirs)
    for run in runs:
        bases, classes = (
            _as_mapping(run.record.get("metrics")),
            _as_mapping(run.record["config"].get("metric")),
        )
        for name in sorted({score.metric for score in run.scores}):
            text = summarize_class(_as_mapping(classes.get(name)).get("_target_", ""), folders)
            settings = _format_settings(bases.get(name))
            told.setdefault(name, {})[" ".join(filter(None, (text, settings)))] = None
    return {
        name: texts[0]
        if len(texts := list(said)) == 1
        else f"differs between the runs: {'; or '.join(texts)}"
        for name, said in sorted(told.items())
    }


def _as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _format_settings(basis: Any) -> str:
    if not isinstance(basis, dict):
        return ""
    rest = {
        key: value
        for key, value in basis.items()
        if key != "higher_is_better" and value is not None
    }
    better = "higher" if basis.get("higher_is_better", True) else "lower"
    facts = [f"{better} is better", *(f"{key} {value}" for key, value in rest.items())]
    return f"({', '.join(facts)})"


def to_csv(rows: Sequence[TableRow]) -> str:
    """All numbers, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Sequence[TableRow], reference: str = REFERENCE) -> str:
    """The table to read: intervals in brackets, differences with their sign, what stands out in
    bold."""
    layout = lay_out(rows, reference)
    body = [
        [_embolden(cell) if (i, j) in layout.bold else cell for j, cell in enumerate(cells)]
        for i, cells in enumerate(
            [[cell.replace("|", "\\|") for cell in cells] for cells in layout.body]
        )
    ]
    widths = [max(map(len, column)) for column in zip(layout.heads, *body, strict=True)]
    lines = [layout.heads, ["-" * width for width in widths], *body]
    return "".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )


def _embolden(cell: str) -> str:
    number, _, rest = cell.partition(" ")
    return f"**{number}** {rest}".strip()


def to_latex(rows: Sequence[TableRow], reference: str = REFERENCE, said: Sequence[str] = ()) -> str:
    """The same table for a paper that uses booktabs, without float or caption; `said` are the notes
    below it."""
    layout = lay_out(rows, reference)
    body = [
        [
            re.sub(r"^\S+", lambda number: rf"\textbf{{{number[0]}}}", _escape_latex(cell))
            if (i, j) in layout.bold
            else _escape_latex(cell)
            for j, cell in enumerate(cells)
        ]
        for i, cells in enumerate(layout.body)
    ]
    lines = [" & ".join(cells) + r" \\" for cells in (map(_escape_latex, layout.heads), *body)]
    rules = [rf"\begin{{tabular}}{{{'l' * len(layout.heads)}}}", r"\toprule"]
    below = [rf"\par\smallskip{{\footnotesize {_escape_latex(line)}\par}}" for line in said]
    return (
        "\n".join(
            [*rules, lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", *below]
        )
        + "\n"
    )


def _escape_latex(text: str) -> str:
    commands = {
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "ω": r"$\omega$",
        "η": r"$\eta$",
        **{plain: "\\" + plain for plain in "&%$#_{}"},
    }
    escaped = "".join(commands.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=\d)", r"$-$", escaped)


def _format_cell(row: TableRow, name: str) -> str:
    value = row[name]
    if value is None:
        return ""
    if name in INTERVALS:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        sign = "+" if name in DIFFERENCES else ""
        value, low, high = (0.0 if abs(x) < 0.0005 else x for x in (value, low, high))
        around = "unknown" if math.isinf(low) else f"{low:{sign}.3f}, {high:{sign}.3f}"
        return f"{value:{sign}.3f} [{around}]"
    if name == "metric":
        return f"{_format_text(value)} {'↑' if row['higher_is_better'] else '↓'}" if value else ""
    if name.startswith("p_"):
        return f"{value:.3f}" if value >= 0.001 else "<0.001"
    if name == "wins":
        return f"{value}-{row['ties']}-{row['losses']}"
    return _format_text(value)


def _format_text(value: Any) -> str:
    """In one line, fit to print."""
    return " ".join(printable(str(value)).split())
