"""Which runs a sweep was planned as, for its jobs to see that nothing they are made of has changed since."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from asyndm.errors import UserError
from evaluation.results import write_json
from experiments.plan import Plan, folders
from experiments.state import state_file

PLANNED_VARIABLE = "ASYNDM_PLANNED"
"""Environment variable in which a sweep leaves the path of its list of runs for its jobs."""


def reserve_planned(output_dir: Path) -> None:
    """Tells the workers of a sweep, before they are started, where its list of runs will lie."""
    file = output_dir / ".hydra" / f"planned-{socket.gethostname()}-{os.getpid()}.json"
    os.environ[PLANNED_VARIABLE] = str(file)


def write_planned(run_ids: Sequence[str]) -> None:
    """Leaves the runs of a sweep, in the order of its jobs, in a file that all of them can read."""
    write_json(Path(os.environ[PLANNED_VARIABLE]), list(run_ids))


def forget_planned() -> None:
    """Removes that file, where this process left one."""
    if file := os.environ.pop(PLANNED_VARIABLE, None):
        with suppress(OSError):
            Path(file).unlink()


def check_planned(plan: Plan) -> None:
    """Refuses a job of a sweep that is no longer the run it was planned as, and takes back that this one is pending.

    Raises:
        UserError: a file it is made of changed meanwhile.
    """
    wanted = _planned()
    if wanted in (None, plan.run_id):
        return
    assert wanted is not None
    for folder in folders(plan.output_dir, wanted):
        _withdraw(folder, folder / state_file(plan).relative_to(plan.folder))
    raise UserError(
        f"{plan.label}: was planned as run {wanted} and is {plan.run_id} now: its prompts, or another file it is "
        "made of, changed since; give the same command again"
    )


def _planned() -> str | None:
    """The run that this job was planned as, where a sweep left that."""
    file = os.environ.get(PLANNED_VARIABLE)
    if file is None or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    try:
        run_id: str = json.loads(Path(file).read_text())[HydraConfig.get().job.num]
    except FileNotFoundError:  # the sweep has ended, or is on a disk of another machine
        return None
    return run_id


def _withdraw(folder: Path, state: Path) -> None:
    """Removes a state that says "pending", and the folder with it if there is nothing else."""
    with suppress(FileNotFoundError, ValueError, NotADirectoryError):
        if json.loads(state.read_text()).get("state") == "pending":
            state.unlink()
    for emptied in (state.parent, folder):
        with suppress(OSError):
            emptied.rmdir()
