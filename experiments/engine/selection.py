"""Which runs a report is of: those of folders, or those that ``experiments.run`` makes of the same
words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.commands import Parser
from evaluation.labels import REFERENCE, read_labels, read_subjects
from evaluation.messages import count_things, describe
from evaluation.runs.folder import SCORES_FILE, Run, find_runs, read_run
from evaluation.runs.records import RUN_FILE
from evaluation.runs.stamps import CHANGED, find_changed_pictures
from evaluation.tables import Against, TableRow

LARGEST = 1e12
"""Of scores that are meant as such: sums of these, and of their squares, are finite."""


def add_selection(parser: Parser, nargs: str) -> None:
    """The arguments that say which runs, and which of their scores.

    Args:
        nargs: of the runs, as argparse has it.
    """
    parser.add_argument(
        "runs",
        nargs=nargs,
        help="folders that are or hold runs, or settings as for experiments.run",
    )
    parser.add_argument("--metric", help="only this one")


def add_against(parser: Parser) -> None:
    """The argument that says which rows of a table the others are compared with."""
    parser.add_argument(
        "--against",
        type=parse_against,
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="compare with those rows instead of with DM; if several, with those of all of them",
    )


def parse_against(text: str) -> Against:
    """ "guidance=2" as a column and its value."""
    column, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE, as in guidance=2")
    return column, value


def name_reference(against: Sequence[Against]) -> str:
    """What differences are from, in words."""
    if not against:
        return REFERENCE
    return ", ".join(f"{column}={value}" if value else f"no {column}" for column, value in against)


def check_metric(metric: str | None, rows: Sequence[TableRow], runs: Sequence[Run]) -> None:
    """Refuses a metric that no row is of.

    Raises:
        UserError: it is none of those that there are.
    """
    if metric and not rows:
        known = sorted({score.metric for run in runs for score in run.scores})
        raise UserError(
            f"--metric {metric}: no such scores; there are {', '.join(known) or 'none'}"
        )


def select_folders(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of runs, and the names of those that settings ask for but nobody has made.

    Raises:
        UserError: a folder that does not exist, settings that are no run, both at once, or nothing
            there.
    """
    settings = [name for name in names if "=" in name and not Path(name).exists()]
    roots = [Path(name) for name in names if name not in settings]
    folders, missing = find_runs(roots) if roots else [], []
    if settings and roots:
        raise UserError(
            f"{settings[0]}: a setting beside a folder ({roots[0]}): a folder's runs are taken as "
            "they are; "
            "name either folders or the settings of runs, and choose a metric by --metric"
        )
    if settings:
        from hydra.errors import HydraException

        from experiments.engine import hydra_messages
        from experiments.engine.sweep import plan_sweep

        try:
            plans = plan_sweep(settings)
        except HydraException as error:
            raise UserError(hydra_messages.describe(error)) from error
        made = [plan.folder for plan in plans if (plan.folder / RUN_FILE).exists()]
        missing = [plan.label for plan in plans if plan.folder not in made]
        if not made:
            raise UserError(
                f"{' '.join(settings)}: {_say_missing(len(plans))} with "
                "python -m experiments.run "
                f"{'' if 'experiment=' in ' '.join(settings) else '-m '}{' '.join(settings)}"
            )
        folders += made
    return folders, missing


def _say_missing(count: int) -> str:
    return (
        "its run is not there; make it"
        if count == 1
        else f"none of its {count:,} runs are there; make them"
    )


def read_runs(folders: Iterable[Path]) -> Iterator[Run]:
    """The runs of these folders; one that cannot be read is named, and left out."""
    for folder in folders:
        try:
            run = drop_changed(read_run(folder))
            read_labels(run), read_subjects(run)
            check_scores(run)
        except (UserError, OSError, RecursionError) as error:
            print(printable(f"warning: left out: {_name_run(folder, error)}"), file=sys.stderr)
        else:
            yield run


def drop_changed(run: Run) -> Run:
    """The run without pictures that are not the ones it lists, and without their scores; they are
    told of."""
    changed = find_changed_pictures(run.folder, run.images)
    if not changed:
        return run
    told = (
        f"{count_things(len(changed), 'picture')} left out, the first {changed[0].file}: {CHANGED}"
    )
    print(printable(f"warning: {run.folder}: {told}"), file=sys.stderr)
    keys = {row.key for row in changed}
    images = [row for row in run.images if row.key not in keys]
    scores = [row for row in run.scores if row.key not in keys]
    return replace(run, images=images, scores=scores, left_out=len(changed))


def _name_run(folder: Path, error: BaseException) -> str:
    """The error in one line that names the run."""
    told = describe(error)
    return told if str(folder) in told else f"{folder}: {told}"


def check_scores(run: Run) -> None:
    """Refuses scores that no sum could be taken of.

    Raises:
        UserError: a score beyond `LARGEST`, with its place.
    """
    for score in run.scores:
        if score.value is not None and abs(score.value) > LARGEST:
            raise UserError(
                f"{run.folder / SCORES_FILE}: {score.metric} of {score.prompt_id}, image "
                f"{score.image_index}: {score.value:g} is no score; take the row out"
            )
