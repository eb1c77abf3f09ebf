"""Every launcher that runs on one machine is really run: its runs are those of ``launcher=local``
to the bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL.Image import Image

from evaluation.choices import CONF
from evaluation.metrics import Score
from evaluation.runs.folder import IMAGES_FILE, SCORES_FILE, read_state
from evaluation.runs.prompts import Prompt
from experiments.engine import registration
from experiments.engine.workers import explain_lost_job, register_resolvers
from hydra_plugins.asyndm_processes import name_jobs
from tests.experiments.engine.processes import (
    find_children,
    is_alive,
    read_line,
    start_python,
    wait_until,
)
from tests.experiments.metrics import Brightness
from tests.lab import ROOT, Lab

BRIGHTNESS = "+metric.brightness._target_=tests.experiments.metrics.Brightness"
SETTINGS = ("images_per_prompt=2", "batch_size=2", "mask=dynamic", BRIGHTNESS)
LONGEST = 120
"""Seconds that no sweep here needs."""
Runs = dict[str, dict[str, bytes]]
SLEEPERS = """
import os
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from experiments.engine.workers import DRIVER

def job(number):
    import os, sys, time
    from experiments.engine.workers import enter_job
    enter_job(OmegaConf.create({"hydra": {"launcher": {"_target_": "Processes"}}}))
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)

os.environ[DRIVER] = str(os.getpid())
Parallel(n_jobs=2)(delayed(job)(number) for number in range(2))
"""
NO_PLUGINS = (
    "import sys, hydra_plugins as h; h.__path__ = []; "
    "from experiments.run import main; sys.exit(main())"
)


class Deadly(Brightness):
    """Kills the process that is the first to ask it."""

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return super().score(images, prompts)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def read_results(runs: Path) -> Runs:
    """The pictures and tables of every run that is done, by the run's folder."""
    found = {}
    for folder in runs.glob("[!.]*"):
        if read_state(folder)["state"] == "done":
            files = [folder / name for name in (IMAGES_FILE, SCORES_FILE, "grid.png", "strip.png")]
            for kind in ("images", "traces", "previews"):
                files += sorted((folder / kind).iterdir())
            found[folder.name] = {
                str(path.relative_to(folder)): path.read_bytes() for path in files
            }
    return found


def copy_lab(lab: Lab, name: str) -> Lab:
    """The same laboratory with a folder of runs of its own."""
    folder = lab.folder / name
    folder.mkdir()
    shutil.copy(lab.folder / "prompts.yaml", folder)
    return Lab(folder, lab.pipeline, lab.capture, lab.steps)


def break_model(lab: Lab) -> Path:
    """A model that passes the checks and cannot be loaded."""
    broken = lab.folder / "broken"
    shutil.copytree(lab.pipeline, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return broken


def run_sweep(lab: Lab, *overrides: str) -> tuple[int, str, str]:
    """Exit status of a sweep, and all that it and its workers said on either stream."""
    process = lab.fork(*SETTINGS, *overrides, hook=show_tests)
    out, error = process.communicate(timeout=LONGEST)
    return process.wait(timeout=1), out, error


def show_tests() -> None:
    """Lets processes that are started find the metrics of the tests."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])


def run_command(lab: Lab, *overrides: str) -> tuple[int, str, str]:
    """The same of the console command."""
    console = str(Path(sys.executable).with_name("asyndm"))
    process = lab.start(*SETTINGS, *overrides, code=(console, "run"))
    try:
        out, error = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, error


def match_line(line: str) -> re.Pattern[str]:
    """A line that begins so, without a prefix or a colour."""
    return re.compile(rf"^{line}[^\x1b\n]*$", re.MULTILINE)


@pytest.mark.fault(
    what="a process of joblib's that is killed, as for want of memory",
    kind="one worker ends the others",
    now="its job alone is told as failed; the others go on, and the same command makes the rest",
)
def test_joblib_shares_out_shards_and_a_failing_or_killed_job_leaves_the_others(lab: Lab) -> None:
    pytest.importorskip("joblib")
    lab(*SETTINGS)
    parallel = copy_lab(lab, "joblib")
    deadly = ["++metric.brightness._target_=tests.experiments.engine.test_workers.Deadly"]
    deadly += [f"+metric.brightness.mark={lab.folder / 'killed'}"]
    sweep = [
        "hydra.launcher.n_jobs=2",
        f"model.path={break_model(lab)},{lab.pipeline}",
        "shard=1/2,2/2",
    ]
    status, out, error = run_sweep(parallel, "-m", "launcher=joblib", *sweep, *deadly)
    assert status == 1 and "img/s" not in error
    assert len(re.findall(r"^error: .*broken.* cannot be loaded", error, re.MULTILINE)) == 2, error
    killed = re.findall(
        r"^error: (.*): its process was killed \(out of memory\?\); (.*)$", error, re.MULTILINE
    )
    assert len(killed) == 1 and killed[0][1] == "the same command goes on from there", error
    names = [f"model.path={lab.pipeline} shard={number}/2" for number in (1, 2)]
    assert killed[0][0] in names and "leaked" not in error and "Error executing job" not in error
    assert len(re.findall(r"shard [12]/2, ", out)) == 1
    finished = parallel(*SETTINGS, *deadly)
    assert finished.status == 0 and finished.lines == []
    assert (
        read_results(parallel.runs) == read_results(lab.runs) and len(read_results(lab.runs)) == 1
    )


def test_jobs_are_named_by_what_they_do_not_share() -> None:
    jobs = [["model=a", "eta=0", "hydra.verbose=true"], ["model=a", "eta=1"]]
    assert name_jobs(jobs) == ["eta=0", "eta=1"] and name_jobs(jobs[:1]) == ["model=a eta=0"]
    assert name_jobs([["model=a"]] * 2) == ["job 1", "job 2"]


def test_a_job_of_submitit_that_is_gone_names_its_logs() -> None:
    errors = pytest.importorskip("submitit.core.utils")
    gone = errors.UncompletedJobError(
        "Job 7 (task: 0) with path /runs/7/7_0_result.pkl\nhas not produced any output"
    )
    assert explain_lost_job(gone) == (
        "a job was killed (out of memory?); its logs are in /runs/7; the others go on, and the "
        "same command makes the rest"
    )
    assert explain_lost_job(ValueError("other")) is None


def test_submitits_local_executor_makes_the_same_and_says_it_here(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    lab(*SETTINGS)
    sweep = f"model.path={break_model(lab)},{lab.pipeline}"
    parallel = copy_lab(lab, "submitit")
    status, out, error = run_sweep(parallel, "launcher=slurm_local", sweep)
    assert status == 1 and len(match_line("folder-AsynDM-.* 6 images ").findall(out)) == 1, out
    assert len(match_line("error: .*broken.* cannot be loaded").findall(error)) == 1, error
    assert error.count("cannot be loaded") == 1 and "submitit INFO" not in out
    assert not list(parallel.runs.glob(".hydra/said-*"))
    logs = [path.read_text() for path in parallel.runs.glob(".hydra/.submitit/*/*.err")]
    assert len(logs) == 2 and sum("cannot be loaded" in log for log in logs) == 1
    assert not any("%|" in log for log in logs)
    assert (
        read_results(parallel.runs) == read_results(lab.runs) and len(read_results(lab.runs)) == 1
    )


@pytest.mark.fault(
    what="result lines of launcher=ray in colours, and those of slurm_local nowhere",
    kind="launchers that speak differently",
    now="each line of a job is said where the sweep was typed, once and as it is",
)
def test_ray_makes_the_same_and_says_it_here(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    lab("-m", *SETTINGS, "mask=none,dynamic")
    parallel = copy_lab(lab, "ray")
    status, out, error = run_command(
        parallel, "launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "mask=none,dynamic"
    )
    assert status == 0, error
    assert (
        len(match_line("folder-(DM|AsynDM)-.* 6 images ").findall(out))
        == len(out.splitlines())
        == 2
    ), out
    pids = {read_state(folder)["pid"] for folder in parallel.runs.glob("[!.]*")}
    assert len(pids) == 2 and "\x1b" not in error
    assert (
        read_results(parallel.runs) == read_results(lab.runs) and len(read_results(lab.runs)) == 2
    )


def test_a_terminated_joblib_sweep_says_so_and_leaves_no_process(lab: Lab) -> None:
    pytest.importorskip("joblib")
    endless = ("launcher=joblib", "hydra.launcher.n_jobs=2", "images_per_prompt=999", "eta=0,1")
    process = lab.fork(*SETTINGS, *endless, hook=show_tests)
    wait_until(lambda: len({path.parent for path in lab.runs.glob("*/images/*.png")}) == 2)
    started = find_children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert len(started) >= 2 and process.wait(timeout=20) == 143
    wait_until(lambda: not any(map(is_alive, started)))
    states = [read_state(folder)["state"] for folder in lab.runs.glob("[!.]*")]
    assert states == ["interrupted", "interrupted"]


def test_joblibs_workers_end_with_a_sweep_that_was_killed() -> None:
    pytest.importorskip("joblib")
    with start_python(SLEEPERS) as process:
        started = [int(read_line(process.stdout)), int(read_line(process.stdout))]
        assert all(map(is_alive, started)) and process.pid not in started
        process.kill()
        wait_until(lambda: not any(map(is_alive, started)))


def test_a_launcher_asks_for_what_the_runs_use() -> None:
    for plugin in ("submitit", "ray"):
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    registration.register()
    register_resolvers()

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
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
    assert process.returncode == 1
    assert error == "error: launcher=ray: needs pip install --group ray, in the checkout\n"
