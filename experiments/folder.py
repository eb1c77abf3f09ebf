"""A run's folder: one writer at a time, its state, and the images that are there."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.results import (
    RUN_FILE,
    STATE_FILE,
    is_whole_png,
    read_run,
    read_state,
    write_json,
)
from experiments.plan import Item, Plan, metrics

GRID_FILE, STRIP_FILE = "grid.png", "strip.png"


@contextmanager
def stated(folder: Path) -> Iterator[None]:
    """Says in ``state.json`` that the run is running, then that it is done, or how it failed.

    What a killed process left half-written under a temporary name is removed first.
    """
    started = time.time()
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    set_state(folder, "running", started)
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        set_state(folder, "interrupted" if interrupted else "failed", started, error)
        raise
    set_state(folder, "done", started)


def set_state(folder: Path, state: str, started: float, error: BaseException | None = None) -> None:
    """Writes the state. A disk that has no room even for that is not worth a second error."""
    content: dict[str, Any] = {
        "state": state,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": started,
        "updated": time.time(),
    }
    if error is not None:
        content |= {"error": str(error), "traceback": "".join(traceback.format_exception(error))}
    try:
        write_json(folder / STATE_FILE, content)
    except OSError:
        if error is None:
            raise


def missing_items(plan: Plan) -> set[Item]:
    """The images that are not there, or not whole."""
    return {item for item in plan.items if not is_whole_png(plan.folder / item.file)}


def wants_strip(plan: Plan) -> bool:
    return plan.config["pictures"] > 0 and not is_whole_png(plan.folder / STRIP_FILE)


def is_complete(plan: Plan) -> bool:
    """Whether nothing is left to do: no model is loaded to find out."""
    done = read_state(plan.folder)["state"] == "done" and (plan.folder / RUN_FILE).exists()
    if not done or wants_strip(plan) or missing_items(plan):
        return False
    run, wanted = read_run(plan.folder), metrics(plan)
    bases = run.record.get("metrics", {})
    if any(bases.get(name) != metric.basis for name, metric in wanted.items()):
        return False
    listed = {row.key for row in run.images}
    scored = {(*row.key, row.metric) for row in run.scores}
    return is_whole_png(plan.folder / GRID_FILE) and all(
        item.key in listed and all((*item.key, name) in scored for name in wanted) for item in plan.items
    )
