"""Which runs a report is of: those of folders, or those that ``experiments.run`` makes of the same
words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.labels import labels, subjects_of
from evaluation.messages import counted, describe
from evaluation.runs.folder import RUN_FILE, SCORES_FILE, Run, find_runs, read_run
from evaluation.runs.stamps import CHANGED, changed_pictures

LARGEST = 1e12
"""Of scores that are meant as such: sums of these, and of their squares, are finite."""


def selected(names: Sequence[str]) -> tuple[list[Path], list[str]]:
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
            "they are; name either "
            "folders or the settings of runs, and choose a metric by --metric"
        )
    if settings:
        from hydra.errors import HydraException

        from experiments.engine.sweep import planned

        try:
            plans = planned(settings)
        except HydraException as error:
            raise UserError(describe(error)) from error
        made = [plan.folder for plan in plans if (plan.folder / RUN_FILE).exists()]
        missing = [plan.label for plan in plans if plan.folder not in made]
        if not made:
            raise UserError(
                f"{' '.join(settings)}: {_none_of(len(plans))} with "
                "python -m experiments.run "
                f"{'' if 'experiment=' in ' '.join(settings) else '-m '}{' '.join(settings)}"
            )
        folders += made
    return folders, missing


def _none_of(count: int) -> str:
    return (
        "its run is not there; make it"
        if count == 1
        else f"none of its {count:,} runs are there; make them"
    )


def readable(folders: Iterable[Path]) -> Iterator[Run]:
    """The runs of these folders; one that cannot be read is named, and left out."""
    for folder in folders:
        try:
            run = as_listed(read_run(folder))
            labels(run), subjects_of(run)
            check_scores(run)
        except (UserError, OSError, RecursionError) as error:
            print(printable(f"warning: left out: {_named(folder, error)}"), file=sys.stderr)
        else:
            yield run


def as_listed(run: Run) -> Run:
    """The run without pictures that are not the ones it lists, and without their scores; they are
    told of."""
    changed = changed_pictures(run.folder, run.images)
    if not changed:
        return run
    told = f"{counted(len(changed), 'picture')} left out, the first {changed[0].file}: {CHANGED}"
    print(printable(f"warning: {run.folder}: {told}"), file=sys.stderr)
    keys = {row.key for row in changed}
    images = [row for row in run.images if row.key not in keys]
    scores = [row for row in run.scores if row.key not in keys]
    return replace(run, images=images, scores=scores, left_out=len(changed))


def _named(folder: Path, error: BaseException) -> str:
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
                f"{score.image_index}: "
                f"{score.value:g} is no score; take the row out"
            )
