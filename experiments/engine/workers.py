"""What the launchers of ``conf/launcher`` need beyond settings: how many workers, what these
inherit, and their end."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from asyndm.errors import UserError
from evaluation.messages import QUIET
from experiments.engine.gpu_lease import ANY_GPU
from experiments.engine.manifest import MANIFEST_VARIABLE
from experiments.engine.registration import PLUGINS
from experiments.engine.relay import RELAY_VARIABLE, relay_output, start_relay
from experiments.engine.settings import find_device
from experiments.engine.signals import Terminated
from experiments.engine.trackers import SWEEP_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
DRIVER, FOLDER, VISIBLE = "ASYNDM_DRIVER", "ASYNDM_FOLDER", "ASYNDM_VISIBLE_DEVICES"
"""Variables that workers inherit: the process of the sweep, its working directory, and the GPUs it
sees."""
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Which dependency group brings which launcher of Hydra."""
WATCH = 1.0
"""Seconds between two looks of a worker at the process it works for."""


def prepare_workers(config: DictConfig) -> None:
    """Sets what the workers of a sweep inherit, before its launcher starts them.

    Args:
        config: of the sweep, with Hydra's part.

    Raises:
        UserError: the launcher is not installed, or there is no Ray cluster to join.
    """
    name = get_launcher(config)
    if name == "BasicLauncher":
        return
    register_resolvers()
    paths = [
        str(ROOT),
        str(PLUGINS),
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(map(os.path.abspath, paths)))
    os.environ |= {DRIVER: str(os.getpid()), FOLDER: os.getcwd()}
    os.environ |= {"TQDM_DISABLE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0"}
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        os.environ[VISIBLE] = os.environ["CUDA_VISIBLE_DEVICES"]
    if name == "Processes":
        _check_processes(config.hydra.launcher.n_jobs)
    else:
        start_relay(Path(config.hydra.sweep.dir).resolve())
    if name == "RayLauncher":
        _start_ray(config.hydra.launcher.ray.init)


def enter_job(config: DictConfig) -> None:
    """Called in every process that does a job, before it: one of submitit on this machine sees the
    GPUs that the sweep sees, one of joblib ends with the sweep, and what all others print is
    printed where that was typed; none of them shows progress."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        _see_gpus(os.environ.get(VISIBLE))
    driver = int(os.environ.get(DRIVER, os.getpid()))
    if (name := get_launcher(config)) != "BasicLauncher":
        os.environ[QUIET] = "1"
    if name != "Processes":
        relay_output()
    elif driver != os.getpid():
        _end_with(driver)


def settle() -> None:
    """Called in a new worker of a Ray cluster: relative paths mean there what they mean to the
    sweep.

    Raises:
        OSError: this machine does not have the folder that the sweep was started in.
    """
    os.chdir(os.environ[FOLDER])


def get_launcher(config: DictConfig) -> str:
    """The class of the launcher, without its module."""
    name: str = config.hydra.launcher._target_
    return name.rpartition(".")[2]


def explain_missing_plugin(error: BaseException) -> str | None:
    """What to install, where an error of Hydra is that there is no such launcher; else None."""
    found = re.search(r"Could not find 'hydra/launcher/(\w+)'", str(error))
    if found is None or found[1] not in EXTRAS:
        return None
    return _name_requirement(EXTRAS[found[1]])


def explain_lost_job(error: BaseException) -> str | None:
    """What to tell where an error of submitit is that a job left no result; else None."""
    if type(error).__name__ != "UncompletedJobError":
        return None
    found = re.search(r"with path (\S+)/[^/\s]+\.pkl", str(error))
    logs = f"; its logs are in {found[1]}" if found else ""
    return (
        f"a job was killed (out of memory?){logs}; the others go on, and the same command makes "
        "the rest"
    )


def _name_requirement(extra: str) -> str:
    return f"launcher={extra}: needs pip install --group {extra}, in the checkout"


def _check_processes(count: int) -> None:
    if find_spec("joblib") is None:
        raise UserError(_name_requirement("joblib"))
    if count == 0:
        raise UserError(
            "hydra.launcher.n_jobs=0: give how many processes, or -1 for one for each core"
        )


def _count_gpus(config: Mapping[str, Any]) -> int:
    """How many GPUs of this machine the runs may use; torch is asked only where they may use
    any."""
    device = find_device(config)
    if device not in ANY_GPU:
        return int(device.startswith("cuda"))
    import torch

    return torch.cuda.device_count()


def count_workers(*, _root_: DictConfig) -> int:
    """``${workers:}``, processes at a time: the slots of all GPUs; -1, for joblib as many as cores,
    without one."""
    return _count_gpus(_root_) * int(_root_.jobs_per_gpu) or -1


def compute_gpu_share(*, _root_: DictConfig) -> float:
    """``${gpu_share:}``, what a run takes of a GPU; 0 where it uses none."""
    on_gpu = find_device(_root_).startswith("cuda") or _count_gpus(_root_) > 0
    return 1 / int(_root_.jobs_per_gpu) if on_gpu else 0


def collect_environment() -> DictConfig:
    """``${worker_environment:}``, the variables of `prepare_workers` and those of the sweep, for
    workers that inherit nothing."""
    names = (
        "PYTHONPATH",
        "TQDM_DISABLE",
        "HF_HUB_OFFLINE",
        FOLDER,
        RELAY_VARIABLE,
        SWEEP_VARIABLE,
        MANIFEST_VARIABLE,
        QUIET,
    )
    return OmegaConf.create({name: os.environ[name] for name in names if name in os.environ})


def register_resolvers() -> None:
    """Makes what the launchers' settings refer to known to OmegaConf."""
    OmegaConf.register_new_resolver("workers", count_workers, replace=True)
    OmegaConf.register_new_resolver("gpu_share", compute_gpu_share, replace=True)
    OmegaConf.register_new_resolver("worker_environment", collect_environment, replace=True)


def _see_gpus(visible: str | None) -> None:
    """Undoes what submitit's local executor says, which knows no GPU unless told how many, and then
    counts from 0."""
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


def _start_ray(settings: DictConfig) -> None:
    """Starts or joins the cluster as the launcher would, but keeps the handler of SIGTERM, where
    Ray sets one that aborts.

    While it waits for jobs, Ray lets no other exception through than KeyboardInterrupt.
    """
    import ray

    if ray.is_initialized():
        return
    before = signal.getsignal(signal.SIGTERM)
    arguments: Any = OmegaConf.to_container(settings, resolve=True)

    def stop(number: int, frame: FrameType | None) -> None:
        try:
            if callable(before):
                before(number, frame)
        except Terminated as error:
            raise KeyboardInterrupt from error

    try:
        ray.init(**arguments)
    except ConnectionError as error:
        raise UserError(
            "launcher=ray_cluster: no Ray cluster runs on this machine; begin with ray start, or "
            "choose launcher=ray"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _end_with(driver: int) -> None:
    """Has this process stopped once its parent is gone; Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # tqdm's own lock is shared by processes: one that is killed makes Python warn of a leak
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        while True:
            time.sleep(WATCH)
            if os.getppid() != driver:
                os.kill(os.getpid(), signal.SIGTERM)

    if not any(thread.name == DRIVER for thread in threading.enumerate()):
        threading.Thread(target=watch, name=DRIVER, daemon=True).start()
