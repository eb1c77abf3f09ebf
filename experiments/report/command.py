"""Runs as a table, figures and a page: method x curve x steps, with intervals and differences from
DM.

python -m experiments.report runs                                      # folders, finished or not
python -m experiments.report experiment=steps                          # runs of these settings
python -m experiments.report runs --by kind --csv table.csv --latex table.tex
python -m experiments.report experiment=guidance --against guidance=2  # not with DM
python -m experiments.report experiment=rivals --against method=DM --against guidance=2
python -m experiments.report experiment=comparison --html page --figures figures

A terminal that the table does not fit is given each row on several lines; files and pipes always
get it whole.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.commands import Parser, command_line
from evaluation.messages import count_things
from evaluation.narrow import measure_terminal, to_narrow
from evaluation.runs.files import write_bytes
from evaluation.runs.folder import Run
from evaluation.table_text import (
    lay_out,
    note_kindless,
    note_statistics,
    to_csv,
    to_latex,
    to_markdown,
    write_notes,
)
from evaluation.tables import TableRow, Total, make_table, name_part
from experiments.engine.selection import (
    add_against,
    add_selection,
    check_metric,
    name_reference,
    read_runs,
    select_folders,
)
from experiments.figures.command import draw
from experiments.report.page import Section, write_page

PLACES = {
    "csv": ("FILE", "write all numbers there"),
    "markdown": ("FILE", "write the table there"),
    "latex": ("FILE", "the same for LaTeX with booktabs"),
    "figures": ("FOLDER", "draw there what the runs have data for"),
    "html": ("FOLDER", "write a page with all of it and a gallery"),
}
"""The options that name what is written, and what they say of themselves."""


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.report", __doc__)
    add_selection(parser, nargs="+")
    parser.add_argument(
        "--by",
        choices=["kind"],
        help="one row for each prompt kind as well, and for the mean of these",
    )
    add_against(parser)
    parser.add_argument(
        "--width",
        type=int,
        metavar="COLUMNS",
        help="print no wider; by default a terminal's width, or all",
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of your own metrics, as for experiments.run: their classes say what they are",
    )
    for option, (metavar, text) in PLACES.items():
        parser.add_argument(f"--{option}", type=Path, metavar=metavar, help=text)
    report(parser.read(arguments))
    return 0


def report(chosen: argparse.Namespace) -> None:
    """Prints and writes what was asked for.

    Raises:
        UserError: nothing to report.
    """
    folders, missing = select_folders(chosen.runs)
    found = list(read_runs(folders))
    runs = [run for run in found if run.images]
    if not runs:
        raise UserError(f"{', '.join(chosen.runs)}: no run with images that can be read")
    make_room(chosen)
    rows = make_table(runs, chosen.metric, chosen.by == "kind", chosen.against)
    check_metric(chosen.metric, rows, runs)
    said = [*write_notes(rows, runs, chosen.config_dir), *note_gaps(found, missing)]
    said += note_uncompared(rows, chosen)
    said = list(map(printable, said))
    print_table(rows, said, chosen)
    if chosen.latex:
        write_bytes(chosen.latex, to_latex(rows, name_reference(chosen.against), said).encode())
    if chosen.csv:
        write_bytes(chosen.csv, to_csv(rows).encode())
    reference = name_reference(chosen.against)
    figures = draw(runs, rows, chosen.figures, reference=reference) if chosen.figures else None
    if chosen.html:
        with tempfile.TemporaryDirectory() as drawn:
            if figures is None:
                figures = draw(runs, rows, Path(drawn), reference=reference)
            sharp = [path for path in figures if path.suffix == ".svg"]
            tables = make_sections(rows, runs, said, chosen)
            page = write_page(chosen.html, make_title(chosen.runs), tables, sharp, runs)
        print(printable(f"\n{page}"))


def note_gaps(runs: Sequence[Run], missing: Sequence[str]) -> list[str]:
    """What of these runs the table is not of, and which are not there at all.

    Args:
        runs: also those without pictures.
        missing: the names of those that nobody has made.
    """
    whole = [run for run in runs if run.images]
    lines = [
        f"Left out of {run.folder.name}: {count_things(run.left_out, 'picture')} other than listed."
        for run in whole
        if run.left_out
    ]
    lines += [
        f"Of {run.folder.name}: {count_things(run.lacking, 'picture')} not in its list."
        for run in whole
        if run.lacking
    ]
    unfinished = [run.folder.name for run in runs if run.state != "done"]
    lines += [f"Not finished: {', '.join(unfinished)}."] if unfinished else []
    lines += [f"Not made yet: {', '.join(missing)}."] if missing else []
    return lines


def note_uncompared(rows: Sequence[TableRow], chosen: argparse.Namespace) -> list[str]:
    """That there is not one difference from what was asked for."""
    if not chosen.against or any(row["difference"] is not None for row in rows):
        return []
    told = "is alike in all else; name what else it may differ in, as in --against steps=20"
    return [f"No differences from {name_reference(chosen.against)}: no row {told}."]


def print_table(rows: Sequence[TableRow], said: Sequence[str], chosen: argparse.Namespace) -> None:
    """Prints the table with its notes, narrow where it does not fit, and writes it as Markdown
    where asked for."""
    reference = name_reference(chosen.against)
    text = to_markdown(rows, reference) + "".join(f"\n{line}\n" for line in said)
    width = chosen.width or measure_terminal()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    if width is None or all(len(line) <= width for line in lines):
        print(text, end="")
    else:
        print(to_narrow(lay_out(rows, reference), said, width), end="")
    if chosen.markdown:
        write_bytes(chosen.markdown, text.encode())


def make_room(chosen: argparse.Namespace) -> None:
    """Makes the folders that will be written to, before anything takes time.

    Raises:
        UserError: one of them cannot be made, with the option that asks for it.
    """
    for option, (metavar, _) in PLACES.items():
        path: Path | None = getattr(chosen, option)
        if path is not None:
            folder = path if metavar == "FOLDER" else path.parent
            if folder is not path and path.is_dir():
                raise UserError(f"--{option} {path}: a folder; name a file in it")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--{option} {path}: {folder}: {error.strerror}; choose another place"
                ) from error


def make_title(names: Sequence[str]) -> str:
    """What a page is called: the experiment's name, or those of the folders."""
    experiment = [name.partition("=")[2] for name in names if name.startswith("experiment=")]
    return ", ".join(
        experiment or [Path(name).resolve().name for name in names if "=" not in name] or names
    )


def make_sections(
    rows: Sequence[TableRow], runs: Sequence[Run], said: Sequence[str], chosen: argparse.Namespace
) -> list[Section]:
    """The table of the page, and the one by prompt kind where there are several."""
    reference = name_reference(chosen.against)
    first = lay_out(rows, reference)
    tables = [Section("Results", first.heads, first.body, first.bold, said)]
    if chosen.by is None and len({image.kind for run in runs for image in run.images}) > 1:
        by_kind = [
            row
            for row in make_table(runs, chosen.metric, True, chosen.against)
            if row["kind"] != name_part(Total.ALL)
        ]
        if by_kind:
            layout = lay_out(by_kind, reference)
            said = [*note_kindless(runs), *note_statistics(by_kind)]
            tables.append(Section("By prompt kind", layout.heads, layout.body, layout.bold, said))
    return tables
