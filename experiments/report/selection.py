"""Which runs a report is of: those of folders, or those that ``experiments.run`` makes of the same words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asyndm.errors import UserError
from evaluation.messages import describe
from evaluation.results import RUN_FILE, Run, find_runs, read_run
from evaluation.tables import labels, subjects_of


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
