"""Which runs a sweep was planned as, for its jobs to see that nothing they are made of has changed
since."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from asyndm.errors import UserError
from evaluation.runs.files import read_json, write_json
from evaluation.runs.folder import SHARDS, STATE_FILE
from experiments.engine.plan import Plan, find_folders, make_plan

MANIFEST_VARIABLE = "ASYNDM_MANIFEST"
"""Environment variable in which a sweep leaves the path of its list of runs for its jobs."""


def reserve_manifest(output_dir: Path) -> None:
    """Tells the workers of a sweep, before they are started, where its list of runs will lie."""
    file = output_dir / ".hydra" / f"manifest-{socket.gethostname()}-{os.getpid()}.json"
    os.environ[MANIFEST_VARIABLE] = str(file)


def write_manifest(run_ids: Sequence[str]) -> None:
    """Leaves the runs of a sweep, in the order of its jobs, in a file that all of them can read."""
    write_json(Path(os.environ[MANIFEST_VARIABLE]), list(run_ids))


def remove_manifest() -> None:
    """Removes that file, where this process left one."""
    if file := os.environ.pop(MANIFEST_VARIABLE, None):
        with suppress(OSError):
            Path(file).unlink()


def plan_job(config: DictConfig) -> Plan:
    """`make_plan` of a job. Where a sweep planned it as a run that it cannot be, this one is no
    longer pending.

    Raises:
        UserError: as `make_plan`; or a file the run is made of changed meanwhile.
    """
    wanted = _find_planned_run()
    try:
        plan = make_plan(config)
    except Exception:
        if wanted is not None:
            _withdraw(config, wanted)
        raise
    if wanted in (None, plan.run_id):
        return plan
    assert wanted is not None
    _withdraw(config, wanted)
    raise UserError(
        f"{plan.label}: was planned as run {wanted} and is {plan.run_id} now: its prompts, or "
        "another file it is made of, changed since; give the same command again"
    )


def _find_planned_run() -> str | None:
    """The run that this job was planned as, where a sweep left that."""
    file = os.environ.get(MANIFEST_VARIABLE)
    if file is None or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    try:
        run_id: str = read_json(Path(file))[HydraConfig.get().job.num]
    except FileNotFoundError:  # the sweep has ended, or is on a disk of another machine
        return None
    return run_id


def _withdraw(config: DictConfig, run_id: str) -> None:
    """Removes the state of this part of a run if it says "pending", and the run's folder with it if
    there is nothing else."""
    part = STATE_FILE
    if config.shard is not None:
        part = (
            f"{SHARDS}/{'-of-'.join(str(int(number)) for number in config.shard.split('/'))}.json"
        )
    for folder in find_folders(Path(config.output_dir).expanduser().resolve(), run_id):
        state = folder / part
        with suppress(OSError, ValueError, AttributeError):
            if read_json(state).get("state") == "pending":
                state.unlink()
        for emptied in (state.parent, folder):
            with suppress(OSError):
                emptied.rmdir()
