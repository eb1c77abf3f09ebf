"""Every launcher that runs on one machine is really run: its runs are those of ``launcher=local`` to the bit."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from evaluation.results import IMAGES_FILE, SCORES_FILE, read_state
from experiments import config as schema
from experiments.launch import register
from tests.lab.conftest import ROOT, Lab

BRIGHTNESS = "+metric.brightness._target_=tests.lab.metrics.Brightness"
SETTINGS = ("images_per_prompt=2", "batch_size=2", "mask=dynamic", BRIGHTNESS)
LONGEST = 120
"""Seconds that no sweep here needs."""
Runs = dict[str, dict[str, bytes]]
HOLD = """
import sys
from pathlib import Path
from experiments.gpus import slot
with slot(["a", "b"], int(sys.argv[2]), Path(sys.argv[1])) as gpu:
    print(gpu, flush=True)
    input()
"""
SLEEPERS = """
import os
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from experiments.launch import DRIVER

def job(number):
    import os, sys, time
    from experiments.launch import enter
    enter(OmegaConf.create({"hydra": {"launcher": {"_target_": "JoblibLauncher"}}}))
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)

os.environ[DRIVER] = str(os.getpid())
Parallel(n_jobs=2)(delayed(job)(number) for number in range(2))
"""
NO_PLUGINS = (
    "import sys, hydra_plugins as h; h.__path__ = []; from experiments.run import main; sys.exit(main())"
)


def results(runs: Path) -> Runs:
    """The pictures and tables of every run that is done, by the run's folder."""
    found = {}
    for folder in runs.glob("[!.]*"):
        if read_state(folder)["state"] == "done":
            files = [folder / name for name in (IMAGES_FILE, SCORES_FILE, "grid.png", "strip.png")]
            for kind in ("images", "traces", "previews"):
                files += sorted((folder / kind).iterdir())
            found[folder.name] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return found


def elsewhere(lab: Lab, name: str) -> Lab:
    """The same laboratory with a folder of runs of its own."""
    folder = lab.folder / name
    folder.mkdir()
    shutil.copy(lab.folder / "prompts.yaml", folder)
    return Lab(folder, lab.pipeline, lab.capture, lab.steps)


def broken_model(lab: Lab) -> Path:
    """A model that passes the checks and cannot be loaded."""
    broken = lab.folder / "broken"
    shutil.copytree(lab.pipeline, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return broken


def swept(lab: Lab, *overrides: str) -> tuple[int, str]:
    """Exit status of a sweep in a process of its own, and all that it said."""
    process = lab.start(*SETTINGS, *overrides)
    try:
        out, error = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out + error


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(c) for task in Path(f"/proc/{pid}/task").glob("*/children") for c in task.read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something to be so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it never came that far"
        time.sleep(0.1)


def read(stream: IO[bytes] | None) -> str:
    """A line that a process says, which it does soon or never."""
    assert stream is not None
    assert select.select([stream], [], [], 30)[0], "it says nothing"
    return stream.readline().decode()


def test_joblib_shares_out_shards_and_a_failing_job_leaves_the_others(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    lab(*SETTINGS)
    sweep = f"model.path={broken_model(lab)},{lab.pipeline}"
    parallel = elsewhere(lab, "joblib")
    status, said = swept(parallel, "-m", "launcher=joblib", "hydra.launcher.n_jobs=2", sweep, "shard=1/2,2/2")
    assert status == 1, said
    assert len(re.findall(r"^error: .*broken.* cannot be loaded", said, re.MULTILINE)) == 2, said
    assert "%|" not in said and len(re.findall(r"shard [12]/2, ", said)) == 2
    assert results(parallel.runs) == results(lab.runs) and len(results(lab.runs)) == 1


def test_submitits_local_executor_makes_the_same(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    lab(*SETTINGS)
    sweep = f"model.path={broken_model(lab)},{lab.pipeline}"
    parallel = elsewhere(lab, "submitit")
    status, said = swept(parallel, "launcher=slurm_local", sweep)
    assert status == 1, said
    logs = [path.read_text() for path in parallel.runs.glob(".hydra/.submitit/*/*.err")]
    assert len(logs) == 2 and sum("cannot be loaded" in log for log in logs) == 1
    assert not any("%|" in log for log in logs)
    assert results(parallel.runs) == results(lab.runs) and len(results(lab.runs)) == 1


def test_ray_makes_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    lab("-m", *SETTINGS, "mask=none,dynamic")
    parallel = elsewhere(lab, "ray")
    status, said = swept(parallel, "launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "mask=none,dynamic")
    assert status == 0, said
    assert len(set(re.findall(r"_run_job pid=(\d+)", said))) == 2, said
    assert results(parallel.runs) == results(lab.runs) and len(results(lab.runs)) == 2


def test_a_terminated_joblib_sweep_says_so_and_leaves_no_process(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    process = lab.start(
        *SETTINGS, "launcher=joblib", "hydra.launcher.n_jobs=2", "images_per_prompt=999", "eta=0,1"
    )
    until(lambda: len({path.parent for path in lab.runs.glob("*/images/*.png")}) == 2)
    started = children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert len(started) >= 2 and process.wait(timeout=20) == 143
    until(lambda: not any(map(lives, started)))
    states = [read_state(folder)["state"] for folder in lab.runs.glob("[!.]*")]
    assert states == ["interrupted", "interrupted"]


def test_joblibs_workers_end_with_a_sweep_that_was_killed() -> None:
    pytest.importorskip("joblib")
    with python(SLEEPERS) as process:
        started = [int(read(process.stdout)), int(read(process.stdout))]
        assert all(map(lives, started)) and process.pid not in started
        process.kill()
        until(lambda: not any(map(lives, started)))


def test_a_launcher_asks_for_what_the_runs_use() -> None:
    for plugin in ("joblib", "submitit", "ray"):
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    schema.register()
    register()

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(schema.CONF), version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=True)

    assert composed("launcher=joblib", "device=cpu").hydra.launcher.n_jobs == -1
    assert composed("launcher=joblib", "device=cuda:0", "jobs_per_gpu=3").hydra.launcher.n_jobs == 3
    assert composed("launcher=ray", "device=cpu").hydra.launcher.ray.remote.num_gpus == 0
    shared = composed("launcher=ray_cluster", "device=cuda", "jobs_per_gpu=2")
    assert shared.hydra.launcher.ray.remote.num_gpus == 0.5
    slurm = composed("launcher=slurm")
    assert (slurm.device, slurm.hydra.launcher.gpus_per_node) == ("cuda", 1)


def test_a_launcher_that_is_not_installed_says_what_to_install(lab: Lab) -> None:
    process = lab.start("launcher=ray", code=("-c", NO_PLUGINS))
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (1, "error: launcher=ray: needs pip install 'asyndm[ray]'\n")


@contextmanager
def python(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def holder(folder: Path, each: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A program that holds a slot of one of two GPUs until it reads a line."""
    return python(HOLD, str(folder), str(each))


def test_a_gpu_has_one_job_unless_asked_for_more(tmp_path: Path) -> None:
    with holder(tmp_path, 1) as first, holder(tmp_path, 1) as second:
        assert {read(first.stdout), read(second.stdout)} == {"0\n", "1\n"}
        with holder(tmp_path, 1) as third:
            said = read(third.stderr)
            assert said == "all 2 GPUs are taken; waiting (jobs_per_gpu=2 shares them)\n"
            second.kill()
            second.wait()
            assert read(third.stdout) in ("0\n", "1\n")


def test_shared_gpus_are_filled_evenly(tmp_path: Path) -> None:
    with holder(tmp_path, 2) as first, holder(tmp_path, 2) as second:
        assert {read(first.stdout), read(second.stdout)} == {"0\n", "1\n"}
        with holder(tmp_path, 2) as third, holder(tmp_path, 2) as fourth:
            assert {read(third.stdout), read(fourth.stdout)} == {"0\n", "1\n"}
