"""A sweep is planned quickly, in whatever order it is asked for, and each of its jobs is the run it
was planned as."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asyndm.errors import UserError
from evaluation.choices import CONF
from experiments.engine.compose import Composer
from experiments.engine.hydra_messages import describe
from experiments.engine.plan import Plan
from experiments.engine.registration import register
from experiments.engine.sweep import _show_progress, plan_jobs, plan_sweep
from experiments.engine.trackers import Tracker
from experiments.run import main
from tests.lab import Lab

OTHER_PROMPTS = "- {text: a dog, subjects: [dog]}\n"


class Editor(Tracker):
    """Someone who edits the prompt file as soon as the first run is there."""

    prompts = OTHER_PROMPTS

    def finish(self, plan: Plan, *_: Any) -> None:
        Path(plan.config["prompt_set"]["path"]).write_text(self.prompts)


class Breaker(Editor):
    """Someone whose editor has saved half of it."""

    prompts = "- {text: a dog, subj"


@pytest.fixture
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_jobs_are_composed_as_hydra_composes_them(hydra: None) -> None:
    composer = Composer()
    settings: list[list[str]] = [
        ["seed=4"],
        ["experiment=curves", "curve.concavity=0.3", "seed=4"],
        ["num_inference_steps=${seed}", "seed=7", "limit=${seed}"],
        [
            "prompt_set.kinds=[one,two]",
            "attention_layers=[1,2]",
            "~metric.exact",
            "+pipeline_arguments.clip_skip=1",
            "++curve.other=3",
        ],
        ["metric=[exact,clip_shapes]", "metric.clip_shapes.model=x", "model={name: mine}"],
        ["mask=foo"],
        ["curve.concavty=0.3"],
        ["num_inference_steps=ten"],
        ["~foo"],
        [],
    ]
    for job in settings:
        told = []
        for way in (lambda given: compose("config", given), composer):
            try:
                told.append(OmegaConf.to_yaml(way(job)))
            except Exception as error:
                told.append(f"{type(error)} {describe(error)}")
        assert told[0] == told[1], job


@pytest.mark.fault(
    what="2,000 jobs are planned",
    kind="costs that grow too fast",
    now="some 5 ms a job, with a progress bar",
)
def test_planning_costs_little_a_job() -> None:
    began = time.process_time()
    plans = plan_sweep(
        ["seed=range(0,20)", "curve.concavity=0.1,0.2,0.3", "num_inference_steps=4,5,6,7,8"]
    )
    assert len(plans) == 300 and time.process_time() - began < 300 * 0.06
    assert len({id(plan.prompts) for plan in plans}) == 1


@pytest.mark.fault(
    what="settings before and after -m, --cfg and other options",
    kind="order of arguments",
    now="any order is read",
)
def test_settings_and_options_come_in_any_order(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [["-m"], ["--dry-run"], ["--config-dir", str(lab.folder)]]
    (first, *rest), told = lab.arguments("mask=none,global"), []
    for order in (options, options[::-1]):
        front, *middle, back = order
        assert main([first, *front, *rest, *sum(middle, []), "limit=2", *back]) == 0
        told.append(capsys.readouterr().out)
    assert "to make: 2 runs, 4 images" in told[0] and told[0] == told[1]
    assert main(["seed=3", "--cfg", "job", "limit=4", "-p", "curve", "--resolve"]) == 0
    assert "concavity: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dryrun", "seed=3"], "--dryrun: no such option (did you mean --dry-run?)"),
        (["seed=3", "-cn"], "argument --config-name/-cn: expected one argument"),
        (["=3"], "=3: no name before the ="),
        (["-q", "-v"], "--quiet and --verbose: choose one"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_dry_run_tells_runs_and_costs_and_makes_nothing(lab: Lab, multirun: list[str]) -> None:
    before = sorted(lab.folder.rglob("*"))
    result = lab(*multirun, "--dry-run", "mask=none")
    name, run_id, *_ = result.out.split()
    assert result.out.splitlines() == [
        f"folder-DM-2  {run_id}  3 images  12 network evaluations  new",
        "to make: 1 run, 3 images, 12 network evaluations",
    ]
    assert result.status == 0 and result.lines == [] and sorted(lab.folder.rglob("*")) == before
    assert lab("mask=none").status == 0 and lab.only_run().name == f"{name}-{run_id}"
    next(lab.only_run().glob("images/*")).unlink()
    assert "2 images there" in lab(*multirun, "--dry-run", "mask=none").out
    assert len(list(lab.only_run().glob("images/*"))) == 2
    assert lab("mask=none").status == 0
    assert lab(*multirun, "--dry-run", "mask=none").out.splitlines()[1] == "nothing to make"
    refused = lab(*multirun, "--dry-run", "num_inference_steps=0")
    assert refused.status == 1
    assert refused.lines == ["error: num_inference_steps=0: must be between 1 and 1000"]


def test_quiet_says_results_only_and_verbose_what_is_checked(lab: Lab) -> None:
    quiet = lab("-q", "-m", "mask=none,global", "limit=1")
    assert quiet.status == 0 and quiet.error == "" and len(quiet.out.splitlines()) == 2
    loud = lab("-v", "-m", "mask=none,global", "limit=2")
    assert (
        "to make: 2 runs" in loud.error
        and "Launching 2 jobs" in loud.error
        and "img/s" in loud.error
    )
    assert "checking model" in loud.error
    assert "checking model" not in lab("-m", "mask=none,global", "limit=3").error


@pytest.mark.fault(
    what="the prompt file changes while a sweep runs",
    kind="files that change",
    now="jobs that are no longer the runs they were planned as stop with one line; the same "
    "command goes on",
)
def test_a_job_that_is_no_longer_the_run_it_was_planned_as_stops(lab: Lab) -> None:
    result = lab("-m", "mask=none,global,dynamic", f"tracker._target_={__name__}.Editor")
    assert result.status == 1 and len(result.lines) == 2  # Hydra adds none
    assert all(
        line.startswith("error: ")
        and "was planned as run" in line
        and line.endswith("give the same command again")
        for line in result.lines
    )
    run = lab.only_run()  # nothing is left of those that were planned
    assert run.name.startswith("folder-DM-2-")
    assert json.loads((run / "state.json").read_text())["state"] == "done"
    assert [path.name for path in (lab.runs / ".hydra").iterdir()] == ["multirun.yaml"]
    assert (
        lab("-m", "mask=none,global").status == 0 and len(list(lab.runs.glob("*-*/run.json"))) == 3
    )


@pytest.mark.fault(
    what="the prompt file goes away or is half-saved while a sweep runs",
    kind="files that change",
    now="jobs that cannot be planned stop with one line, and are pending no longer",
)
def test_a_job_that_cannot_be_planned_any_more_is_not_pending(lab: Lab) -> None:
    result = lab("-m", "mask=none,global", "shard=1/1", f"tracker._target_={__name__}.Breaker")
    assert (
        result.status == 1
        and len([line for line in result.lines if line.startswith("error: ")]) == 1
    )
    assert lab.only_run().name.startswith("folder-DM-2-")


@pytest.mark.parametrize(
    ("choices", "curves"),
    [("glob(*)", ["exponential", "piecewise_linear", "quadratic"]), ("glob(quad*)", ["quadratic"])],
)
def test_a_glob_is_all_choices_of_its_group(lab: Lab, choices: str, curves: list[str]) -> None:
    result = lab("-m", "--dry-run", f"curve={choices}", "mask=global")
    names = [line.split("-")[2] for line in result.out.splitlines() if "DM_concave" in line]
    assert result.status == 0 and names == curves


@pytest.mark.fault(
    what="a glob that matches no choice, or a range of nothing",
    kind="settings that are not what was meant",
    now="refused in one line that names the setting and the choices",
)
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("curve=glob(z*)", "matches none of exponential, linear, piecewise_linear, quadratic"),
        ("curve=glob(*, exclude=*)", "matches none of exponential"),
        ("limit=glob(*)", "a glob is of choices; give values"),
        ("seed=range(3,3)", "has no values; give at least one"),
        ("eta=range(0.0,1.0,0.0)", "the step must not be 0"),
        ("curve.concavity=interval(0,1)", "an interval is for a search; give values"),
    ],
)
def test_a_sweep_over_nothing_is_refused(lab: Lab, given: str, why: str) -> None:
    result = lab("-m", given)
    assert result.status == 1 and result.out == ""
    (line,) = result.lines
    assert line.startswith(f"error: {given}: {why}")


def test_an_experiment_that_sweeps_over_nothing_is_refused(hydra: None) -> None:
    with pytest.raises(UserError, match=re.escape("curve=glob(z*): matches none of exponential")):
        list(plan_jobs({"curve": "glob(z*)"}, [], Composer()))


def test_progress_is_measured_without_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.engine.sweep.PATIENCE", 0)
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    for number in _show_progress(range(30), "checking"):
        time.sleep(0.02 if number else 0.6)
    rates = [float(rate) for rate in re.findall(r"([0-9.]+)job/s", said.getvalue())]
    assert rates and all(rate > 15 for rate in rates) and "s/job" not in said.getvalue()
    for jobs in ([], [1]):
        assert list(_show_progress(jobs, "checking")) == jobs


@pytest.mark.fault(
    what="hydra.job.chdir=true with relative paths",
    kind="paths that come to mean something else",
    now="they mean what they mean to the caller",
)
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_paths_mean_what_they_mean_to_the_caller(
    lab: Lab, multirun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.folder)
    model = os.path.relpath(lab.pipeline, lab.folder)
    relative = ["prompt_set.path=prompts.yaml", "output_dir=runs", f"model.path={model}"]
    assert lab(*multirun, *relative, "mask=none", "hydra.job.chdir=true").status == 0
    assert lab.only_run().name.startswith("folder-DM-2-") and Path.cwd() == lab.folder
