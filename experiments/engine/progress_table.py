"""How far runs are, as a table that fits its terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from asyndm.terminal import printable
from evaluation.messages import count_things
from experiments.engine.progress import BROKEN, Part

HEAD = ("run", "state", "images", "images/s", "left", "doing")
TEXTS = ("run", "state", "doing")
"""Columns of words, which begin on the left; numbers end on the right."""
WIDTH = 100
"""Characters of a text from a file that a cell of the table shows."""
NAME = 24
"""Characters of a run's name that are worth more than a column."""
LEAST = 8
"""Characters of a run's name that are always shown."""
FEWEST = 3
"""Columns that are always shown."""
NARROWEST = 40
"""Characters that no table is squeezed below."""


def format_table(parts: Sequence[Part], width: int | None = None) -> str:
    """A line a run, then how many are in which state, and when all is made if all goes on as it
    does.

    Args:
        parts: of the runs.
        width: of the terminal: names are cut in the middle, and columns left out from the right, as
            far as it takes.
    """
    rows = [HEAD, *(_format_cells(part) for part in parts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    totals = format_totals(parts)
    if width is not None:
        width = max(width, NARROWEST)
        while len(widths) > FEWEST and _measure_room(widths, width) < min(widths[0], NAME):
            widths.pop()
        widths[0] = min(widths[0], max(LEAST, _measure_room(widths, width)))
        totals = textwrap.fill(totals, width)
    lines = [
        "  ".join(
            _cut_middle(cell, wide).ljust(wide) if name in TEXTS else cell.rjust(wide)
            for name, cell, wide in zip(HEAD, row, widths, strict=False)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [*lines, "", totals])


def _measure_room(widths: Sequence[int], width: int) -> int:
    """What columns of these widths leave a name."""
    return width - sum(wide + 2 for wide in widths[1:])


def _cut_middle(text: str, width: int) -> str:
    """Its beginning and its end, which holds the run's id."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 1]}…{text[-end:]}"


def _format_cells(part: Part) -> tuple[str, ...]:
    return (
        _clean(part.name),
        _clean(part.state),
        f"{part.there:,}/{part.total:,}" if part.total else "",
        f"{part.rate:.2f}" if part.rate else "",
        "" if part.seconds_left is None else format_duration(part.seconds_left),
        _clean(part.phase),
    )


def _clean(text: str) -> str:
    """A text of a file in one line of its table."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def format_totals(parts: Sequence[Part]) -> str:
    """The last line of the table."""
    counts = Counter(part.state for part in parts)
    order = ("done", "running", "pending", *BROKEN)
    states = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    left = sum(part.left for part in parts if part.state in ("running", "pending"))
    rate = sum(part.rate for part in parts if part.state == "running")
    end = ""
    if rate and left:
        seconds = format_duration(left / rate)
        end = f"; {count_things(left, 'image')} left, {seconds} at {rate:.2f} images/s"
    hint = "; --failed tells why" if any(counts[state] for state in BROKEN) else ""
    return f"{states}{end}{hint}"


def format_duration(seconds: float) -> str:
    """3671 -> "1 h 01 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
