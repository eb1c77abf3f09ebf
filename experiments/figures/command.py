"""Figures of runs, as PNG and SVG: whatever they have the data for.

python -m experiments.figures runs --out figures
python -m experiments.figures experiment=steps --metric exact --only lines,cost --out figures
python -m experiments.figures --only curves --out figures  # needs no runs
python -m experiments.figures runs --against steps=20 --only effects --out figures

seeds:   one prompt and seed under DM, DM_concave and AsynDM, with what each did on the way
strip:   one picture over its steps
curves:  the schedules
lines:   score against each setting that takes three values or more
cost:    score against network evaluations

and where --only asks for them:

effects: paired differences from DM, or from what --against says, with their intervals
beside:  one prompt and seed under each of four methods or more
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.cells import CONDITIONS
from evaluation.commands import Parser, command_line
from evaluation.labels import REFERENCE, read_labels
from evaluation.runs.folder import Run
from evaluation.tables import TableRow, make_table
from experiments.engine.selection import (
    add_against,
    add_selection,
    check_metric,
    name_reference,
    read_runs,
    select_folders,
)
from experiments.figures import beside, cost, curves, effects, lines, seeds, strip
from experiments.figures.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = ("seeds", "strip", "curves", "lines", "cost")
NAMES = (*USUAL, "effects", "beside")
"""All there are: those that are not usual are drawn where they are asked for."""


def draw(
    runs: Sequence[Run],
    rows: Sequence[TableRow],
    folder: Path,
    only: Sequence[str] = USUAL,
    say: Callable[[str], None] = lambda line: print(printable(line), file=sys.stderr),
    reference: str = REFERENCE,
) -> list[Path]:
    """Writes every figure that there is data for.

    Args:
        runs: those shown.
        rows: `evaluation.tables.make_table` of them.
        folder: for the files.
        only: which of `NAMES`.
        say: told of each that cannot be drawn, and why.
        reference: what the rows' differences are from, in words.

    Returns:
        the files, a PNG and an SVG of each.
    """
    files = []
    whole = [{name: read_labels(runs[0])[name] for name in CONDITIONS[1:]} | row for row in rows]
    for name in only:
        try:
            for stem, figure in _draw_named(name, runs, whole, reference):
                files += save(figure, folder / stem)
        except UserError as error:
            say(f"not drawn: {name}: {error}")
    return files


def _draw_named(
    name: str, runs: Sequence[Run], rows: Sequence[TableRow], reference: str
) -> Iterator[tuple[str, Figure]]:
    """The figures of a name, with the names of their files.

    Raises:
        UserError: no data for it.
    """
    if name == "curves":
        yield name, curves.draw_figure()
    elif not runs:
        raise UserError("no runs; name their folders, or use --only curves")
    elif name == "seeds":
        yield name, seeds.draw_figure(runs)
    elif name == "strip":
        yield name, strip.draw_figure(*strip.choose_picture(runs))
    elif name == "beside":
        yield name, beside.draw_figure(runs)
    elif not lines.select_scored(rows):
        raise UserError("no scores; add some with python -m evaluation.score FOLDER metric=exact")
    elif name == "cost":
        yield name, cost.draw_figure(rows)
    elif name == "effects":
        yield name, effects.draw_figure(rows, reference)
    else:
        settings = lines.find_varied(rows)
        if not settings:
            raise UserError(
                f"none of {', '.join(lines.SETTINGS)} takes {lines.LEAST} values or more with all "
                "else equal; sweep one, as in num_inference_steps=10,20,50"
            )
        for setting in settings:
            yield f"{name}_{setting}", lines.draw_figure(rows, setting)


def parse_names(text: str) -> list[str]:
    """Of "curves,lines".

    Raises:
        UserError: a name that is no figure.
    """
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(
            f"--only {', '.join(unknown)}: no such figure; choose from {', '.join(NAMES)}"
        )
    return names


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.figures", __doc__)
    add_selection(parser, nargs="*")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the figures")
    parser.add_argument(
        "--only",
        default=",".join(USUAL),
        metavar="NAMES",
        help=f"of {', '.join(NAMES)}; by default {', '.join(USUAL)}",
    )
    add_against(parser)
    chosen = parser.read(arguments)
    only = parse_names(chosen.only)
    runs = list(read_runs(select_folders(chosen.runs)[0])) if chosen.runs else []
    runs = [run for run in runs if run.images]
    rows = make_table(runs, chosen.metric, against=chosen.against)
    check_metric(chosen.metric, rows, runs)
    files = draw(runs, rows, chosen.out, only, reference=name_reference(chosen.against))
    for png in files[::2]:
        print(printable(f"{png}, .svg"))
    return 0 if files else 1
