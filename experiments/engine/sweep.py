"""All jobs of a sweep are checked before the first one samples."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from tqdm import tqdm

from asyndm.command import spell_commands
from asyndm.errors import UserError
from evaluation.choices import CONF
from evaluation.messages import count_things, is_quiet
from experiments.engine.compose import Composer, find_loader, parse_overrides
from experiments.engine.cost import describe_rows, estimate_cost, forecast_run
from experiments.engine.folder import PlannedFolder
from experiments.engine.heartbeat import announce
from experiments.engine.hydra_messages import describe
from experiments.engine.identity import PromptList
from experiments.engine.manifest import reserve_manifest, write_manifest
from experiments.engine.plan import Plan, make_plan, read_prompts
from experiments.engine.preflight import Checks, check_choices, check_writable
from experiments.engine.read_only import redirect_hydra_files
from experiments.engine.registration import register
from experiments.engine.schema import SCHEMAS
from experiments.engine.signals import FailedReturn
from experiments.engine.trackers import SWEEP_VARIABLE
from experiments.engine.workers import enter_job, get_launcher, prepare_workers

SINGLE = frozenset(SCHEMAS)
"""Groups of which a run has one choice; of metrics it can have several."""
SEARCH_FILE = "optimization_results.yaml"
"""Where the Optuna sweeper leaves the best it found."""
Job = TypeVar("Job")
PATIENCE = 5.0
"""Seconds of planning after which its progress is shown."""


class CheckAll(Callback):
    """Composes every job of the basic sweeper's grid and refuses the sweep if one of them cannot
    run.

    Sweepers that choose their values as they go have no grid to check; each of their jobs checks
    itself, as a single run does. Only its folder is checked here, before Hydra tries to make it.
    """

    def __init__(self, dry_run: bool = False) -> None:
        """
        Args:
            dry_run: print what would be made, and make nothing.
        """
        self._dry_run = dry_run

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exit_on_error():
            _refuse_lists(config)
            if not redirect_hydra_files(config):
                check_writable(Path(config.output_dir).expanduser(), 0)
            if self._dry_run:
                _print_single_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        basic = _is_grid(config)
        with _exit_on_error():
            _refuse_lists(config)
            redirect_hydra_files(config)
            if basic:
                _replace_params(config)
            experiment = config.hydra.runtime.choices.get("experiment")
            os.environ[SWEEP_VARIABLE] = experiment or _name_sweep(config)
            reserve_manifest(Path(config.output_dir).expanduser().resolve())
            if not self._dry_run:
                prepare_workers(config)
            if basic:
                _check_jobs(config, self._dry_run)
            elif self._dry_run:
                print("its sweeper chooses the runs as it goes; one of them:")
                _print_single_run(config)
            else:  # of a job that failed, the job itself has told
                logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)
                logging.getLogger("optuna.storages").setLevel(logging.WARNING)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.job.chdir:
            os.chdir(config.hydra.runtime.cwd)  # back: paths mean what they mean to the caller
        register()  # a launcher's worker has not come by the command line
        enter_job(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is JobStatus.FAILED:
            job_return.__class__ = FailedReturn

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        file = Path(config.hydra.sweep.dir) / SEARCH_FILE
        if not _is_grid(config) and file.is_file():
            found = OmegaConf.load(file)
            best = " ".join(f"{key}={value}" for key, value in found.best_params.items())
            where = config.prompt_set.get("split") or config.prompt_set.name
            print(
                f"best: {best}  {config.objective} {found.best_value:.4f} on prompts of {where}",
                flush=True,
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


def _read_overrides(config: DictConfig, part: str = "task") -> list[str]:
    """The settings of the command line as they were written; those that are Hydra's are another
    part."""
    given: Any = OmegaConf.to_container(config.hydra.overrides[part], resolve=False)
    return list(given)


def _refuse_lists(config: DictConfig) -> None:
    """Hydra composes a list of choices on top of each other, and the last one wins: never what was
    meant."""
    overrides = parse_overrides(_read_overrides(config))
    _refuse_empty(overrides)
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group == "launcher" and override.is_sweep_override():
            raise UserError("launcher: one for all jobs of a sweep; name only one")
        if group in SINGLE and isinstance(value, list):
            names = ",".join(map(str, value))
            raise UserError(
                f"{group}=[{names}]: one choice at a time; to sweep, -m {group}={names}"
            )


def _refuse_empty(overrides: Iterable[Override]) -> None:
    """Hydra makes no job at all of a sweep over nothing, and says so nowhere; one of steps of 0 has
    no end."""
    for override in overrides:
        if not override.is_discrete_sweep():
            continue
        value = override.value()
        if isinstance(value, RangeSweep) and not value.step:
            raise UserError(f"{override.input_line}: the step must not be 0")
        if any(True for _ in override.sweep_iterator()):
            continue
        if isinstance(value, Glob):
            options = find_loader().get_group_options(override.key_or_group, ObjectType.CONFIG)
            known = (
                f"matches none of {', '.join(options)}"
                if options
                else "a glob is of choices; give values"
            )
            raise UserError(f"{override.input_line}: {known}")
        raise UserError(f"{override.input_line}: has no values; give at least one")


def _name_sweep(config: DictConfig) -> str:
    text = " ".join([*_read_overrides(config), str(config.hydra.sweeper.params)])
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _replace_params(config: DictConfig) -> None:
    """Takes out of an experiment's sweep what the command line sets: Hydra would run their product,
    each job as often as the experiment has values."""
    with read_write(config.hydra.sweeper), open_dict(config.hydra.sweeper):
        config.hydra.sweeper.params = _drop_replaced(config, _read_overrides(config))


def _drop_replaced(config: DictConfig, given: Sequence[str]) -> dict[str, str]:
    replaced = {override.key_or_group for override in parse_overrides(given)}
    params = config.hydra.sweeper.params or {}
    return {key: value for key, value in params.items() if key not in replaced}


def plan_jobs(
    params: Mapping[str, str], given: Sequence[str], composer: Composer
) -> Iterator[Plan]:
    """Every job of the basic sweeper's grid, in its order; jobs that come to the same run each
    time.

    Args:
        params: an experiment's sweep.
        given: the settings of the command line, which replace it.

    Raises:
        UserError: one of them is no run.
    """
    overrides = parse_overrides([*(f"{key}={value}" for key, value in params.items()), *given])
    _refuse_empty(overrides)
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: an interval is for a search; "
                "give values, as in a,b or range(a,b)"
            )
    settings = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
    read: dict[str, PromptList] = {}

    def read_once(*choices: Mapping[str, Any]) -> PromptList:
        key = json.dumps(choices)
        if key not in read:
            read[key] = read_prompts(*choices)
        return read[key]

    for job in _show_progress(settings, "planning"):
        yield make_plan(composer(job), read_once)


def _show_progress(jobs: Sequence[Job], doing: str) -> Iterator[Job]:
    """The same jobs, with a progress bar where they take long; it begins after the first one, which
    pays for imports."""
    yield from jobs[:1]
    yield from tqdm(
        jobs[1:],
        desc=doing,
        total=len(jobs),
        initial=1,
        unit="job",
        delay=PATIENCE,
        leave=False,
        mininterval=0.5,
        disable=is_quiet(),
    )


def plan_sweep(given: Sequence[str]) -> list[Plan]:
    """The runs that ``experiments.run`` would make of these settings, each once, whether with -m or
    not.

    Raises:
        UserError: one of them is no run.
        HydraException: there is no such setting.
    """
    register()
    experiment = [text for text in given if text.startswith("experiment=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", experiment, return_hydra_config=True)
        if not _is_grid(config):
            raise UserError(
                f"{' '.join(experiment)}: chooses its runs as it goes; name their folder instead"
            )
        plans = plan_jobs(_drop_replaced(config, given), given, Composer())
        return list({plan.run_id: plan for plan in plans}.values())


def _runs_elsewhere(config: DictConfig) -> bool:
    """Whether jobs run on other machines than this one, whose devices say nothing of theirs."""
    name = get_launcher(config)
    if name == "RayLauncher":
        return bool(config.hydra.launcher.ray.init.get("address") != "local")
    return name == "SlurmLauncher"


@dataclass
class Standing:
    """What of a sweep is to be made, and what is there.

    Attributes:
        missing: the parts of each run that are to be made, by its id.
        complete: id and shard of what is there.
    """

    missing: dict[str, list[Plan]] = field(default_factory=dict)
    complete: set[tuple[str, str | None]] = field(default_factory=set)

    def __str__(self) -> str:
        if not self.missing:
            return "nothing to make"
        there = len({run_id for run_id, _ in self.complete} - self.missing.keys())
        more = f"; {there:,} more {'is' if there == 1 else 'are'} there" if there else ""
        return f"to make: {estimate_cost(parts[0] for parts in self.missing.values())}{more}"

    def add(self, plan: Plan, check: Callable[[Plan], None]) -> bool:
        """Whether a job is there; a run that is not is checked, once for all of its parts.

        Raises:
            UserError: it cannot be made.
        """
        part = plan.run_id, plan.config["shard"]
        if plan.run_id in self.missing:
            self.missing[plan.run_id].append(plan)
        elif part not in self.complete:
            if PlannedFolder(plan).find() is not None:
                self.complete.add(part)
            else:
                check(plan)
                self.missing[plan.run_id] = [plan]
        return part in self.complete


def _check_jobs(config: DictConfig, dry_run: bool) -> None:
    """Checks all jobs and says what they cost; a dry run ends here. Hydra then takes them as they
    are."""
    check, standing, lines = Checks(_runs_elsewhere(config)), Standing(), dict[str, str]()
    composer = Composer(config.hydra.job.config_name, _read_overrides(config, "hydra"))
    plans = list(plan_jobs(config.hydra.sweeper.params or {}, _read_overrides(config), composer))
    for plan in _show_progress(plans, "checking"):
        check_choices(plan)
        is_there = standing.add(plan, check)
        if dry_run and plan.run_id not in lines:
            lines[plan.run_id] = _describe_run(plan, is_there)
    if dry_run:
        print(*lines.values(), standing, sep="\n", flush=True)
        raise SystemExit(0)
    if standing.missing:
        write_manifest([plan.run_id for plan in plans])
        parts = [plan for parts in standing.missing.values() for plan in parts]
        for plan in _show_progress(parts, "announcing"):
            announce(plan)
        if len(plans) > 1 and not is_quiet():
            print(f"{standing}{_tell_status_command(config)}", file=sys.stderr, flush=True)
    _let_hydra_trust(config)


def _tell_status_command(config: DictConfig) -> str:
    """How to see how far a sweep is whose jobs do not say it here."""
    if get_launcher(config) == "BasicLauncher":
        return ""
    return f"\nhow far: {spell_commands('python -m experiments.status')} {config.output_dir}"


def _let_hydra_trust(config: DictConfig) -> None:
    """Hydra would compose all jobs once more before it begins, some 50 ms each."""
    sweeper: Any = Plugins.instance().class_name_to_class[config.hydra.sweeper._target_]
    sweeper.validate_batch_is_legal = lambda sweeper, jobs: None


def _print_single_run(config: DictConfig) -> None:
    """Prints what a single run would make, and ends."""
    own = [str(key) for key in config if key != "hydra"]
    plan = make_plan(OmegaConf.masked_copy(config, own))
    check_choices(plan)
    complete = PlannedFolder(plan).find() is not None
    if not complete:
        Checks()(plan)
    to_make = "nothing to make" if complete else f"to make: {estimate_cost([plan])}"
    print(_describe_run(plan, complete), to_make, sep="\n")
    raise SystemExit(0)


def _describe_run(plan: Plan, complete: bool) -> str:
    """A run in a line: what it comes to, and how much of it is there."""
    there = "all there" if complete else "new"
    if not complete and plan.folder.is_dir():
        made = plan.image_count - len(PlannedFolder(plan).missing(plan.items))
        there = f"{count_things(made, 'image')} there"
    return (
        f"{plan.label}  {plan.run_id}  {count_things(plan.image_count, 'image')}  "
        f"{describe_rows(forecast_run(plan))}  {there}"
    )
