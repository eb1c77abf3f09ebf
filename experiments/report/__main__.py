"""Runs as a table, figures and a page: method x curve x steps, with intervals and differences from DM.

python -m experiments.report runs                          # folders, finished or not
python -m experiments.report experiment=steps              # what experiments.run makes of the same words
python -m experiments.report runs --by kind --csv table.csv --latex table.tex
python -m experiments.report experiment=comparison --html page --figures figures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asyndm.errors import UserError
from evaluation.layout import notes, to_csv, to_latex, to_markdown
from evaluation.messages import describe
from evaluation.results import RUN_FILE, Run, find_runs, read_run, write_bytes
from evaluation.tables import labels, subjects_of, table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", help="folders that are or hold runs, or settings as for experiments.run"
    )
    parser.add_argument("--metric", help="only this one")
    parser.add_argument("--by", choices=["kind"], help="one row for each prompt kind as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="the same for LaTeX with booktabs")
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="draw there what the runs have data for"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FOLDER", help="write a page with all of it and a gallery"
    )
    chosen = parser.parse_args(arguments)
    try:
        report(chosen)
    except (UserError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1
    return 0


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
    rows = table(runs, chosen.metric, chosen.by == "kind")
    if not rows:
        known = sorted({score.metric for run in runs for score in run.scores})
        raise UserError(f"--metric {chosen.metric}: no such scores; there are {', '.join(known) or 'none'}")
    said = notes(rows, runs)
    said += [f"Not finished: {', '.join(unfinished)}."] if unfinished else []
    said += [f"Not made yet: {', '.join(missing)}."] if missing else []
    text = to_markdown(rows) + "".join(f"\n{line}\n" for line in said)
    print(text, end="")
    if chosen.markdown:
        write_bytes(chosen.markdown, text.encode())
    if chosen.latex:
        write_bytes(chosen.latex, ("".join(f"% {line}\n" for line in said) + to_latex(rows)).encode())
    if chosen.csv:
        write_bytes(chosen.csv, to_csv(rows).encode())


def selected(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of runs, and the names of those that settings ask for but nobody has made.

    Raises:
        UserError: a folder that does not exist, settings that are no run, or nothing there.
    """
    settings = [name for name in names if "=" in name and not Path(name).exists()]
    roots = [Path(name) for name in names if name not in settings]
    folders, missing = find_runs(roots) if roots else [], []
    if settings:
        from hydra.errors import HydraException

        from experiments.sweep import planned

        try:
            plans = planned(settings)
        except HydraException as error:
            raise UserError(describe(error)) from error
        made = [plan.folder for plan in plans if (plan.folder / RUN_FILE).exists()]
        missing = [plan.label for plan in plans if plan.folder not in made]
        if not made:
            raise UserError(
                f"{' '.join(settings)}: none of its {len(plans)} runs are there; make them with "
                f"python -m experiments.run {'' if 'experiment=' in ' '.join(settings) else '-m '}{' '.join(settings)}"
            )
        folders += made
    return folders, missing


def readable(folders: Iterable[Path]) -> Iterator[Run]:
    """The runs of these folders; one that cannot be read is named, and left out."""
    for folder in folders:
        try:
            run = read_run(folder)
            labels(run), subjects_of(run)
        except UserError as error:
            print(f"warning: left out: {error}", file=sys.stderr)
        else:
            yield run


if __name__ == "__main__":
    sys.exit(main())
