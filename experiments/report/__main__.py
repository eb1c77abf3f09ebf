"""The table of runs, finished or not: method x curve x steps, with intervals and differences from DM.

python -m experiments.report runs
python -m experiments.report runs --by kind --csv table.csv --markdown table.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asyndm.errors import UserError
from evaluation.messages import describe
from evaluation.results import Run, find_runs, read_run, write_bytes
from evaluation.tables import labels, subjects_of, table, to_csv, to_latex, to_markdown

NOTE = (
    "95 % intervals: of right-or-wrong scores with one image a prompt, or all alike, Wilson's over prompts; "
    "otherwise, and of all differences, a bootstrap over prompts, or Student's t below 20 of them. "
    "Differences are of the same prompts and seeds, all else equal; p of a permutation test that swaps the methods "
    "in whole prompts, by Holm's correction over the table."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--metric", help="only this one")
    parser.add_argument("--by", choices=["kind"], help="one row for each prompt kind as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="the same for LaTeX with booktabs")
    chosen = parser.parse_args(arguments)
    try:
        report(chosen)
    except (UserError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1
    return 0


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


def report(chosen: argparse.Namespace) -> None:
    """Prints and writes the table.

    Raises:
        UserError: nothing to report.
    """
    runs = list(readable(find_runs(chosen.runs)))
    unfinished = [run for run in runs if run.state != "done"]
    runs = [run for run in runs if run.images]
    if not runs:
        raise UserError(f"{', '.join(map(str, chosen.runs))}: no run with images that can be read")
    rows = table(runs, chosen.metric, chosen.by == "kind")
    if not rows:
        known = sorted({score.metric for run in runs for score in run.scores})
        raise UserError(f"--metric {chosen.metric}: no such scores; there are {', '.join(known) or 'none'}")
    text = f"{to_markdown(rows)}\n{NOTE}\n"
    if unfinished:
        text += f"Not finished: {', '.join(run.folder.name for run in unfinished)}.\n"
    print(text, end="")
    if chosen.markdown:
        write_bytes(chosen.markdown, text.encode())
    if chosen.latex:
        write_bytes(chosen.latex, f"% {NOTE}\n{to_latex(rows)}".encode())
    if chosen.csv:
        write_bytes(chosen.csv, to_csv(rows).encode())


if __name__ == "__main__":
    sys.exit(main())
