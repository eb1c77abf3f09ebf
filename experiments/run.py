"""One run, or with ``-m`` a sweep of runs: pictures, their scores, and a record of both.

    python -m experiments.run mask=none limit=64
    python -m experiments.run -m mask=none,global,dynamic curve=quadratic,exponential eta=0,1
    python -m experiments.run experiment=demo

A run asked for again is found; one that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from asyndm.terminal import ends_quietly, printable
from evaluation.runs.folder import Run
from evaluation.scoring import average_scores
from experiments.engine.hydra_app import raise_hydra_errors, start
from experiments.engine.hydra_messages import describe
from experiments.engine.manifest import plan_job, remove_manifest
from experiments.engine.plan import Plan
from experiments.engine.registration import register
from experiments.engine.relay import RELAY_VARIABLE, finish_relays
from experiments.engine.runner import Runner
from experiments.engine.signals import (
    EXIT_STATUS,
    JobFailed,
    Terminated,
    is_stopping,
    raise_on_sigterm,
)
from experiments.engine.workers import explain_lost_job, explain_missing_plugin


def run(config: DictConfig) -> tuple[Plan, Run]:
    """Makes what is missing of one run, or of its shard, and returns all that is there.

    Raises:
        UserError: anything wrong with what was asked, before anything is sampled.
    """
    plan = plan_job(config)
    return plan, Runner(plan).run()


def job(config: DictConfig) -> float | None:
    """One job: its failure is told in one line, and the next one still runs.

    Returns:
        what a search maximises, if this is one.
    """
    if is_stopping():
        raise JobFailed("the sweep was told to stop")
    with ends_quietly():
        return _try_job(config)


def _try_job(config: DictConfig) -> float | None:
    try:
        with raise_on_sigterm():
            return read_objective(*run(config))
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr, flush=True)
        if HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(1) from error
        failure = JobFailed(describe(error))
        failure.is_reported = "SUBMITIT_EXECUTOR" not in os.environ or RELAY_VARIABLE in os.environ
        raise failure from error


def read_objective(plan: Plan, result: Run) -> float | None:
    """The mean of the metric that a search is for."""
    name = plan.config["objective"]
    return None if name is None else average_scores(result.scores)[name]


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0, 1 for any error, 130 when interrupted, 143 when
    terminated.

    With HYDRA_FULL_ERROR=1 in the environment the traceback of an error comes as well.
    """
    register()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    try:
        with raise_hydra_errors(), raise_on_sigterm(), finish_relays():
            start(job, sys.argv[1:] if arguments is None else arguments)
        return 0
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_STATUS[Terminated if is_stopping() else type(stop)]
    except SystemExit as end:
        if end.__cause__ is not None and wants_traceback:
            traceback.print_exception(end.__cause__)
        if isinstance(end.code, str):
            print(printable(f"error: {end.code}"), file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except Exception as error:
        if not isinstance(error, JobFailed) or not error.is_reported:
            reason = explain_missing_plugin(error) or explain_lost_job(error) or describe(error)
            print(printable(f"error: {reason}"), file=sys.stderr)
        if wants_traceback:
            traceback.print_exception(error)
        return 1
    finally:
        remove_manifest()


if __name__ == "__main__":
    # of the module by this name, not of __main__: workers import it
    from experiments.run import main as importable

    sys.exit(importable())
