"""What of a run is there already, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from asyndm.errors import UserError
from evaluation.runs.files import ForeignFile, checked_file, is_whole_png
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    RUN_FILE,
    SCORES_FILE,
    STATE_FILE,
    Run,
    read_prompts,
    read_record,
    read_run,
)
from evaluation.runs.stamps import Stamps
from experiments.engine.plan import Item, Plan, metrics

GRID_FILE, STRIP_FILE = "grid.png", "strip.png"


def missing_items(plan: Plan, items: Iterable[Item]) -> set[Item]:
    """The images that are not there, or not whole."""
    return {item for item in items if not is_whole_png(plan.folder / item.file)}


def wants_strip(plan: Plan) -> bool:
    return plan.config["pictures"] > 0 and not is_whole_png(plan.folder / STRIP_FILE)


def batch_size(plan: Plan) -> int:
    """The one the run was begun with, else that of the settings."""
    try:
        return int(read_record(plan.folder).get("batch_size", plan.config["batch_size"]))
    except UserError:
        return int(plan.config["batch_size"])


def has_prompts(plan: Plan) -> bool:
    """Whether the run's folder says for what it was made, undamaged."""
    try:
        return tuple(read_prompts(plan.folder / PROMPTS_FILE).values()) == plan.prompts
    except (FileNotFoundError, UserError):
        return False


def refuse_foreign(folder: Path) -> None:
    """Refuses a run's folder with something in it that this program neither reads nor replaces.

    Raises:
        ForeignFile: a record of a newer version; a folder or a pipe where a file of the run should
            be.
    """
    for name in (RUN_FILE, STATE_FILE, PROMPTS_FILE, IMAGES_FILE, SCORES_FILE):
        with suppress(FileNotFoundError):
            checked_file(folder / name)
    try:
        read_record(folder)
    except ForeignFile:
        raise
    except UserError:  # damaged: written anew
        pass


def is_complete(plan: Plan) -> bool:
    """Whether nothing is left to do, as `complete_run`."""
    return complete_run(plan) is not None


def complete_run(plan: Plan) -> Run | None:
    """The run, if nothing of it or of the shard is left to do: no model is loaded to find out. What
    is damaged is left to be made anew.

    Raises:
        UserError: as `refuse_foreign`.
    """
    refuse_foreign(plan.folder)
    if not (plan.folder / RUN_FILE).exists() or not has_prompts(plan):
        return None
    try:
        run = read_run(plan.folder)
    except UserError:
        return None
    if run.state == "done" and not wants_strip(plan):
        return (
            run
            if is_whole_png(plan.folder / GRID_FILE) and is_made(plan, run, plan.items)
            else None
        )
    if plan.shard is None:
        return None
    own = [item for _, batch in plan.batches(batch_size(plan)) for item in batch]
    return run if is_made(plan, run, own) and not is_made(plan, run, plan.items) else None


def is_made(plan: Plan, run: Run, items: Iterable[Item]) -> bool:
    """Whether these images are there, the ones that were listed, and scored."""
    wanted, bases = metrics(plan), run.record.get("metrics", {})
    if any(bases.get(name) != metric.basis for name, metric in wanted.items()):
        return False
    listed = {row.key: row for row in run.images}
    scored = {row.place for row in run.scores}
    stamps = Stamps(plan.folder)
    made = all(
        (row := listed.get(item.key)) is not None
        and row.file == item.file
        and stamps.is_listed(row)
        and all((name, *item.key) in scored for name in wanted)
        for item in items
    )
    stamps.save()
    return made
