"""The same prompt and seed under every method of a sweep, side by side: the picture, and below it
who was on the curve early on.

Rows are chosen by the order of the prompt set alone, as those of `experiments.figures.seeds`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from evaluation.cells import METHOD
from evaluation.labels import read_labels
from evaluation.runs.colours import choose_frame
from evaluation.runs.folder import Run
from evaluation.runs.traces import read_trace
from experiments.figures.lines import format_facts
from experiments.figures.seeds import (
    COMMON,
    MARGIN,
    WIDTH,
    Shot,
    choose_prompts,
    collect_shots,
    draw_title,
)
from experiments.figures.strip import find_trace_file, open_picture
from experiments.figures.style import FAINT, Sheet, apply_style, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP, LINE = 0.06, 0.16
"""Between pictures, and of a line of words, in inches."""
SIDE, MAP = 1.2, 0.6
"""Of a picture at the most, and of a mask as part of it."""
HEAD, TITLE, VERDICT, FOOT = 0.62, 0.24, 0.3, 0.4
LETTERS = 16
"""Of a setting's line."""
LEAST, MOST = 4, 9
"""Columns: `experiments.figures.seeds` has three, and narrower ones show nothing."""


def choose_runs(runs: Sequence[Run]) -> list[Run]:
    """A run for each method, all else and the seeds equal: of the first model and settings that
    have the most methods, in the order of the runs.

    Raises:
        UserError: fewer than four, or more than nine, that share a prompt with traces.
    """
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], Run]] = {}
    for run in runs:
        of = read_labels(run)
        condition = (*(str(of[name]) for name in COMMON), run.identity["seed"])
        group = groups.setdefault(condition, {})
        group.setdefault(tuple(str(of[name]) for name in METHOD), run)
    found = [list(group.values()) for group in groups.values()]
    chosen = max((group for group in found if choose_prompts(group, 1)), key=len, default=[])
    if not LEAST <= len(chosen) <= MOST:
        raise UserError(
            f"there are {len(chosen)} methods of the same prompts and seeds, all else equal, with "
            f"traces, and {LEAST} to {MOST} fit; ask for as many, as in "
            "mask=none,dynamic,static,things"
        )
    labels = {run.folder: read_labels(run) for run in chosen}
    return sorted(
        chosen, key=lambda run: (labels[run.folder]["method"].rank, labels[run.folder]["settings"])
    )


def draw_figure(runs: Sequence[Run], count: int = 3) -> Figure:
    """A row a prompt, a column a method: the picture, framed right or wrong, and the mask at a
    third of its steps.

    Args:
        runs: any; those shown are chosen by `choose_runs`.
        count: rows at most.

    Raises:
        UserError: as `choose_runs`, or a file of theirs cannot be read.
    """
    columns = choose_runs(runs)
    table = collect_shots(columns, count)
    side = min(SIDE, (WIDTH - 2 * MARGIN - GAP * (len(columns) - 1)) / len(columns))
    block = TITLE + side * (1 + MAP) + GAP + VERDICT
    with apply_style():
        sheet = Sheet.of(WIDTH, HEAD + len(table) * block + FOOT)
        for column, run in enumerate(columns):
            x, of = MARGIN + column * (side + GAP), read_labels(run)
            sheet.text(shorten(of["method"], side), x, 0.1)
            settings = textwrap.wrap(of["settings"].replace("=", " = "), LETTERS)[:2]
            for number, words in enumerate(settings, 1):
                sheet.text(shorten(words, side), x, 0.1 + LINE * number, color=FAINT)
        for row, line in enumerate(table):
            y = HEAD + row * block
            draw_title(sheet, line[-1], y)
            for column, shot in enumerate(line):
                _draw_shot(sheet, shot, MARGIN + column * (side + GAP), y + TITLE, side)
        _draw_foot(sheet, columns[-1], HEAD + len(table) * block)
    return sheet.figure


def _draw_shot(sheet: Sheet, shot: Shot, x: float, y: float, side: float) -> None:
    frame = choose_frame(shot.right)
    sheet.picture(open_picture(shot.run, shot.image), x, y, side, frame)
    way = read_trace(find_trace_file(shot.run, shot.image))
    mask = way.masks[round((len(way.masks) - 1) / 3)]
    sheet.picture(mask, x + side * (1 - MAP) / 2, y + side + GAP, side * MAP)
    if shot.right is not None:
        word = "✓ right" if shot.right else "✗ wrong"
        sheet.text(word, x, y + side * (1 + MAP) + GAP + 0.04, color=frame)


def _draw_foot(sheet: Sheet, run: Run, y: float) -> None:
    """What is shown, how rows were chosen, and under which settings."""
    of = read_labels(run)
    facts = {**of, "model": of["model"][0], "beside": f"guidance {of['guidance']}"}
    settings = format_facts(facts, ("model", "beside", "steps", "curve", "concavity"))
    lines = (
        "Below: who is on the curve at a third of the steps; where a mask names no subject, in the "
        "first one's colour.",
        f"Rows: the set's first prompts, new kinds first, never chosen by outcome. {settings}",
    )
    for number, line in enumerate(lines):
        said = shorten(line, WIDTH - 2 * MARGIN)
        sheet.text(said, MARGIN, y + LINE * number, color=FAINT)
