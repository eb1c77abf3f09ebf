"""Runs as a table, figures and a page: method x curve x steps, with intervals and differences from
DM.

python -m experiments.report runs                          # folders, finished or not
python -m experiments.report experiment=steps  # what experiments.run makes of the same words
python -m experiments.report runs --by kind --csv table.csv --latex table.tex
python -m experiments.report experiment=guidance --against guidance=2  # not with DM
python -m experiments.report experiment=comparison --html page --figures figures

A terminal that the table does not fit is given each row on several lines; files and pipes always
get it whole.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from asyndm.errors import UserError
from asyndm.terminal import ends_quietly, printable
from evaluation.commands import Parser
from evaluation.messages import counted, describe
from evaluation.narrow import terminal_width, to_narrow
from evaluation.runs.files import write_bytes
from evaluation.runs.folder import Run
from evaluation.table_text import (
    lay_out,
    notes,
    statistics,
    to_csv,
    to_latex,
    to_markdown,
    without_kind,
)
from evaluation.tables import ALL, Row, table
from experiments.figures.command import draw
from experiments.report.page import Section, write_page
from experiments.report.selection import readable, selected


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.report", __doc__)
    parser.add_argument(
        "runs", nargs="+", help="folders that are or hold runs, or settings as for experiments.run"
    )
    parser.add_argument("--metric", help="only this one")
    parser.add_argument(
        "--by",
        choices=["kind"],
        help="one row for each prompt kind as well, and for the mean of these",
    )
    parser.add_argument(
        "--against",
        type=against,
        metavar="COLUMN=VALUE",
        help="compare with those rows instead of with DM",
    )
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
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument(
        "--latex", type=Path, metavar="FILE", help="the same for LaTeX with booktabs"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="draw there what the runs have data for"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FOLDER", help="write a page with all of it and a gallery"
    )
    chosen = parser.read(arguments)
    try:
        report(chosen)
    except (UserError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1
    return 0


def against(text: str) -> tuple[str, str]:
    """ "guidance=2" as a column and its value."""
    column, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE, as in guidance=2")
    return column, value


def report(chosen: argparse.Namespace) -> None:
    """Prints and writes what was asked for.

    Raises:
        UserError: nothing to report.
    """
    folders, missing = selected(chosen.runs)
    runs = list(readable(folders))
    unfinished = [run.folder.name for run in runs if run.state != "done"]
    runs = [run for run in runs if run.images]
    if not runs:
        raise UserError(f"{', '.join(chosen.runs)}: no run with images that can be read")
    make_room(chosen)
    rows = table(runs, chosen.metric, chosen.by == "kind", chosen.against)
    reference = reference_of(chosen)
    if not rows:
        known = sorted({score.metric for run in runs for score in run.scores})
        raise UserError(
            f"--metric {chosen.metric}: no such scores; there are {', '.join(known) or 'none'}"
        )
    said = notes(rows, runs, chosen.config_dir)
    said += [
        f"Left out of {run.folder.name}: {counted(run.left_out, 'picture')} other than listed."
        for run in runs
        if run.left_out
    ]
    said += [
        f"Of {run.folder.name}: {counted(run.lacking, 'picture')} not in its list."
        for run in runs
        if run.lacking
    ]
    said += [f"Not finished: {', '.join(unfinished)}."] if unfinished else []
    said += [f"Not made yet: {', '.join(missing)}."] if missing else []
    said = list(map(printable, said))
    text = to_markdown(rows, reference) + "".join(f"\n{line}\n" for line in said)
    width = chosen.width or terminal_width()
    fits = width is None or all(
        len(line) <= width for line in text.splitlines() if line.startswith("|")
    )
    print(
        text if fits or width is None else to_narrow(lay_out(rows, reference), said, width), end=""
    )
    if chosen.markdown:
        write_bytes(chosen.markdown, text.encode())
    if chosen.latex:
        write_bytes(chosen.latex, to_latex(rows, reference, said).encode())
    if chosen.csv:
        write_bytes(chosen.csv, to_csv(rows).encode())
    figures = draw(runs, rows, chosen.figures) if chosen.figures else None
    if chosen.html:
        with tempfile.TemporaryDirectory() as drawn:
            figures = draw(runs, rows, Path(drawn)) if figures is None else figures
            sharp = [path for path in figures if path.suffix == ".svg"]
            page = write_page(
                chosen.html, title(chosen.runs), sections(rows, runs, said, chosen), sharp, runs
            )
        print(printable(f"\n{page}"))


def reference_of(chosen: argparse.Namespace) -> str:
    """What differences are from, in words."""
    if chosen.against is None:
        return "DM"
    column, value = chosen.against
    return f"{column}={value}" if value else f"no {column}"


def make_room(chosen: argparse.Namespace) -> None:
    """Makes the folders that will be written to, before anything takes time.

    Raises:
        UserError: one of them cannot be made, with the option that asks for it.
    """
    for option in ("csv", "markdown", "latex", "figures", "html"):
        path: Path | None = getattr(chosen, option)
        if path is not None:
            folder = path if option in ("figures", "html") else path.parent
            if folder is not path and path.is_dir():
                raise UserError(f"--{option} {path}: a folder; name a file in it")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--{option} {path}: {folder}: {error.strerror}; choose another place"
                ) from error


def title(names: Sequence[str]) -> str:
    """What a page is called: the experiment's name, or those of the folders."""
    experiment = [name.partition("=")[2] for name in names if name.startswith("experiment=")]
    return ", ".join(
        experiment or [Path(name).resolve().name for name in names if "=" not in name] or names
    )


def sections(
    rows: Sequence[Row], runs: Sequence[Run], said: Sequence[str], chosen: argparse.Namespace
) -> list[Section]:
    """The table of the page, and the one by prompt kind where there are several."""
    reference = reference_of(chosen)
    first = lay_out(rows, reference)
    tables = [Section("Results", first.heads, first.body, first.bold, said)]
    if chosen.by is None and len({image.kind for run in runs for image in run.images}) > 1:
        by_kind = [
            row for row in table(runs, chosen.metric, True, chosen.against) if row["kind"] != ALL
        ]
        if by_kind:
            layout = lay_out(by_kind, reference)
            said = [*without_kind(runs), *statistics(by_kind)]
            tables.append(Section("By prompt kind", layout.heads, layout.body, layout.bold, said))
    return tables
