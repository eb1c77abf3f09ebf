"""All jobs of a sweep are checked before the first one samples."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from asyndm.errors import UserError
from evaluation.messages import describe
from experiments.checks import check, check_writable
from experiments.config import CONF, SCHEMAS, register
from experiments.cost import cost
from experiments.folder import is_complete
from experiments.launch import enter, prepare
from experiments.plan import Plan, make_plan
from experiments.state import say_pending
from experiments.trackers import SWEEP_VARIABLE

SINGLE = frozenset(SCHEMAS)
"""Groups of which a run has one choice; of metrics it can have several."""
SEARCH_FILE = "optimization_results.yaml"
"""Where the Optuna sweeper leaves the best it found."""
MANY = 50
"""Jobs whose composing takes so long that it is announced."""


class CheckAll(Callback):
    """Composes every job of the basic sweeper's grid and refuses the sweep if one of them cannot run.

    Sweepers that choose their values as they go have no grid to check; each of their jobs checks itself, as a
    single run does. Only its folder is checked here, before Hydra tries to make it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exit_on_error():
            _refuse_lists(config)
            check_writable(Path(config.output_dir).expanduser(), 0)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        basic = _is_grid(config)
        with _exit_on_error():
            _refuse_lists(config)
            prepare(config)
            if basic:
                _replace_params(config)
            os.environ[SWEEP_VARIABLE] = config.hydra.runtime.choices.get("experiment") or _name(config)
            if basic:
                _check_jobs(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        enter(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        file = Path(config.hydra.sweep.dir) / SEARCH_FILE
        if not _is_grid(config) and file.is_file():
            found = OmegaConf.load(file)
            best = " ".join(f"{key}={value}" for key, value in found.best_params.items())
            where = config.prompt_set.get("split") or config.prompt_set.name
            print(
                f"best: {best}  {config.objective} {found.best_value:.4f} on prompts of {where}", flush=True
            )


def _is_grid(config: DictConfig) -> bool:
    """Whether all jobs are known before the first one runs."""
    sweeper: str = config.hydra.sweeper._target_
    return sweeper.endswith(".BasicSweeper")


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Hydra turns a callback's exceptions into warnings and goes on; it lets SystemExit through."""
    try:
        yield
    except Exception as error:
        raise SystemExit(describe(error)) from error


def _refuse_lists(config: DictConfig) -> None:
    """Hydra composes a list of choices on top of each other, and the last one wins: never what was meant."""
    for override in _parsed(config.hydra.overrides.task):
        group, value = override.key_or_group, override.value()
        if group == "launcher" and override.is_sweep_override():
            raise UserError("launcher: one for all jobs of a sweep; name only one")
        if group in SINGLE and isinstance(value, list):
            names = ",".join(map(str, value))
            raise UserError(f"{group}=[{names}]: one choice at a time; to sweep, -m {group}={names}")


def _parsed(overrides: Iterable[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def _name(config: DictConfig) -> str:
    text = " ".join([*config.hydra.overrides.task, str(config.hydra.sweeper.params)])
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _replace_params(config: DictConfig) -> None:
    """Takes out of an experiment's sweep what the command line sets: Hydra would run their product, each job
    as often as the experiment has values."""
    with read_write(config.hydra.sweeper), open_dict(config.hydra.sweeper):
        config.hydra.sweeper.params = _params(config, config.hydra.overrides.task)


def _params(config: DictConfig, given: Sequence[str]) -> dict[str, str]:
    replaced = {override.key_or_group for override in _parsed(given)}
    params = config.hydra.sweeper.params or {}
    return {key: value for key, value in params.items() if key not in replaced}


def jobs(params: Mapping[str, str], given: Sequence[str]) -> list[Plan]:
    """Every job of the basic sweeper's grid, in its order; jobs that come to the same run each time.

    Args:
        params: an experiment's sweep.
        given: the settings of the command line, which replace it.

    Raises:
        UserError: one of them is no run.
    """
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = _parsed([*(f"{key}={value}" for key, value in params.items()), *given])
    settings = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
    if len(settings) > MANY:
        print(f"composing {len(settings)} jobs", file=sys.stderr, flush=True)
    return [make_plan(compose("config", job)) for job in settings]


def planned(given: Sequence[str]) -> list[Plan]:
    """The runs that ``experiments.run`` would make of these settings, each once, whether with -m or not.

    Raises:
        UserError: one of them is no run.
        HydraException: there is no such setting.
    """
    from hydra import compose, initialize_config_dir

    register()
    experiment = [text for text in given if text.startswith("experiment=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", experiment, return_hydra_config=True)
        if not _is_grid(config):
            raise UserError(f"{' '.join(experiment)}: chooses its runs as it goes; name their folder instead")
        plans = jobs(_params(config, given), given)
        return list({plan.run_id: plan for plan in plans}.values())


def _elsewhere(config: DictConfig) -> bool:
    """Whether jobs run on other machines than this one, whose devices say nothing of theirs."""
    settings = config.hydra.launcher
    joins = settings._target_.endswith(".RayLauncher") and settings.ray.init.get("address") != "local"
    return bool(joins or settings._target_.endswith(".SlurmLauncher"))


def _check_jobs(config: DictConfig) -> None:
    missing: dict[str, Plan] = {}
    plans = jobs(config.hydra.sweeper.params or {}, config.hydra.overrides.task)
    for plan in plans:
        if plan.run_id not in missing and not is_complete(plan):
            check(plan, _elsewhere(config))
            missing[plan.run_id] = plan
    for plan in plans:
        if plan.run_id in missing:
            say_pending(plan)
    if len(plans) > 1 and missing:
        there = len({plan.run_id for plan in plans}) - len(missing)
        found = f"; {there} more are there" if there else ""
        elsewhere = not config.hydra.launcher._target_.endswith(".BasicLauncher")
        how_far = f"\nhow far: python -m experiments.status {config.output_dir}" if elsewhere else ""
        print(f"to make: {cost(missing.values())}{found}{how_far}", file=sys.stderr, flush=True)
