"""``launcher=joblib``: jobs in processes of this machine, of which one can be killed and the others
go on.

Hydra takes launchers only from the package ``hydra_plugins``, whose parts may lie in several
places.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import LifoQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from asyndm.terminal import printable
from experiments.engine.hydra_messages import describe
from experiments.engine.signals import FailedReturn, JobFailed, Terminated

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

GRACE = 2.0
"""Seconds that the processes have, when the sweep is stopped, to say so in the states of their
runs."""
THREADS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "NUMBA")
"""Libraries whose ``..._NUM_THREADS`` says how many threads of the CPU a process takes."""
Handler = Callable[[int, FrameType | None], Any]
"""Of a signal."""


class Processes(Launcher):
    """Keeps `n_jobs` processes, which do one job after the other; a model stays in its process for
    the next one.

    Each is a pool of joblib's with one worker. One pool of many workers, as Hydra's own plugin has
    it, ends with the first that is killed; here that costs the job, which is told as failed, and
    another process takes its place.

    Args:
        n_jobs: how many; -1: one for each core, -2: one less, and so on.
    """

    def __init__(self, n_jobs: int = -1) -> None:
        self.n_jobs = n_jobs
        self.idle: LifoQueue[ProcessPoolExecutor | None] = LifoQueue()
        self.count = 0
        self.ending = threading.Event()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Does the jobs, in their order, and returns what came of each; none of their failures is
        raised."""
        from joblib import effective_n_jobs

        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        most = effective_n_jobs(self.n_jobs)
        while self.count < min(most, len(job_overrides)):
            self.idle.put(None)
            self.count += 1
        environment = _build_environment(most)
        do = partial(self._do, environment=environment, singletons=Singleton.get_state())
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        with ThreadPoolExecutor(self.count) as threads, self._stop_processes_first():
            return list(threads.map(do, numbers, job_overrides, name_jobs(job_overrides)))

    def _do(
        self,
        number: int,
        overrides: Sequence[str],
        name: str,
        *,
        environment: Mapping[str, str],
        singletons: Mapping[Any, Any],
    ) -> JobReturn:
        """One job in a process that is free; a failure that it could not tell of is told here."""
        from joblib.externals.loky import ProcessPoolExecutor

        process = self.idle.get()
        try:
            if self.ending.is_set():
                return _build_failure(overrides, "the sweep was told to stop")
            process = process or ProcessPoolExecutor(1, env=environment)
            arguments = (number, overrides, self.context, self.config, self.task, singletons)
            result: JobReturn = process.submit(do_job, *arguments).result()
            return result
        except (Exception, Terminated) as error:
            if isinstance(error, (BrokenExecutor, Terminated)):
                _shut_down(process)
                process = None
            reason = explain_end(error)
            if not self.ending.is_set():
                print(printable(f"error: {name}: {reason}"), file=sys.stderr, flush=True)
            return _build_failure(overrides, reason)
        finally:
            self.idle.put(process)

    @contextmanager
    def _stop_processes_first(self) -> Iterator[None]:
        """Where the sweep is stopped, its processes are told before this one is, and none of them
        begins another job."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, partial(self._stop, handler))
            yield
        except BaseException:
            self.ending.set()
            for pid in filter(None, (child.pid for child in multiprocessing.active_children())):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # joblib's have no kill of their own
            raise
        finally:
            for number, handler in before.items():
                if isinstance(signal.getsignal(number), partial):
                    signal.signal(number, handler)

    def _stop(self, then: Handler, number: int, frame: FrameType | None) -> None:
        self.ending.set()
        signal.signal(number, then)
        for child in multiprocessing.active_children():
            child.terminate()
        time.sleep(GRACE)
        then(number, frame)


def do_job(
    number: int,
    overrides: Sequence[str],
    context: HydraContext,
    config: DictConfig,
    task: TaskFunction,
    singletons: Mapping[Any, Any],
) -> JobReturn:
    """A job of a sweep, in the process that is to do it."""
    setup_globals()
    Singleton.set_state(dict(singletons))
    job = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    return run_job(
        hydra_context=context,
        config=job,
        task_function=task,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def name_jobs(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells each job from the others: the settings that they do not share, else its number."""
    shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    names = (
        " ".join(filter_overrides([o for o in job if o not in shared])) for job in job_overrides
    )
    return [name or f"job {number}" for number, name in enumerate(names, 1)]


def explain_end(error: BaseException) -> str:
    """Why a job ended, in one line, where its process could not say so itself."""
    again = "the same command goes on from there"
    if isinstance(error, Terminated):
        return f"its process was terminated; {again}"
    if not isinstance(error, BrokenExecutor):
        return describe(error)
    found = re.search(r"\{(SIG[A-Z]+)", str(error))
    cause = {None: "", "SIGKILL": " (out of memory?)"}.get(
        found and found[1], f" ({found[1]})" if found else ""
    )
    return f"its process was killed{cause}; {again}"


def _build_environment(processes: int) -> dict[str, str]:
    """Shares the threads of the CPU out among them; numbers that the user gave stand."""
    from joblib import cpu_count

    share = str(max(cpu_count() // processes, 1))
    return {(name := f"{library}_NUM_THREADS"): os.environ.get(name, share) for library in THREADS}


def _build_failure(overrides: Sequence[str], reason: str) -> JobReturn:
    job = FailedReturn(overrides=list(overrides), status=JobStatus.FAILED)
    job.return_value = JobFailed(reason)
    return job


def _shut_down(process: ProcessPoolExecutor | None) -> None:
    if process is not None:
        process.shutdown(wait=False, kill_workers=True)
