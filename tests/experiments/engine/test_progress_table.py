"""How far runs are, as a table that fits its terminal."""

from __future__ import annotations

import pytest

from experiments.engine.progress import Part
from experiments.engine.progress_table import format_duration, format_table


@pytest.mark.fault(
    what="names of runs that a terminal has no room for",
    kind="tables wider than the terminal",
    now="names are cut in the middle, then columns left out; a file or a pipe gets all of it",
)
@pytest.mark.parametrize(("width", "columns"), [(120, 6), (80, 6), (60, 3), (40, 3)])
def test_the_table_fits_its_terminal(width: int, columns: int) -> None:
    names = [f"shapes-AsynDM-piecewise_linear-0.5-10 {end}" for end in ("3e1f/12", "9a70/12")]
    parts = [Part(name, "interrupted", 2500, 10_000, 3.25, "scoring") for name in names]
    lines = format_table(parts, width).splitlines()
    assert all(len(line) <= width for line in lines) and len(set(lines)) == len(lines)
    assert all(word in lines[1] for word in ("shapes", "1f/12", "interrupted", "2,500/10,000"))
    assert len(lines[0].split()) == columns
    assert all(name in format_table(parts) for name in names) and "doing" in format_table(parts)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3671, "1 h 01 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
