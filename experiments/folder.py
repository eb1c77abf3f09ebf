"""What of a run is there already, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from asyndm.errors import UserError
from evaluation.results import (
    PROMPTS_FILE,
    RUN_FILE,
    Run,
    is_whole_png,
    read_prompts,
    read_record,
    read_run,
    read_state,
)
from experiments.plan import Item, Plan, metrics

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


def is_complete(plan: Plan) -> bool:
    """Whether nothing is left to do, of the run or of the shard: no model is loaded to find out. What is damaged is left
    to be made anew."""
    if not (plan.folder / RUN_FILE).exists() or not has_prompts(plan):
        return False
    try:
        run = read_run(plan.folder)
    except UserError:
        return False
    if read_state(plan.folder)["state"] == "done" and not wants_strip(plan):
        return is_whole_png(plan.folder / GRID_FILE) and is_made(plan, run, plan.items)
    if plan.shard is None:
        return False
    own = [item for _, batch in plan.batches(batch_size(plan)) for item in batch]
    return is_made(plan, run, own) and not is_made(plan, run, plan.items)


def is_made(plan: Plan, run: Run, items: Iterable[Item]) -> bool:
    """Whether these images are there, listed and scored."""
    wanted, bases = metrics(plan), run.record.get("metrics", {})
    if any(bases.get(name) != metric.basis for name, metric in wanted.items()):
        return False
    listed = {row.key for row in run.images}
    scored = {row.place for row in run.scores}
    return all(
        item.key in listed
        and is_whole_png(plan.folder / item.file)
        and all((name, *item.key) in scored for name in wanted)
        for item in items
    )
