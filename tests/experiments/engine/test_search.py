"""A search proposes settings, is told a metric's mean on validation prompts, and finds its runs
when repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asyndm.shapes.world import KINDS, prompts
from evaluation.runs.folder import find_runs, read_run
from evaluation.scoring import average_scores
from experiments.run import main
from tests.lab import BRIGHTNESS, Lab

TRIALS = 4


def run_search(folder: Path, *more: str) -> int:
    small = ["limit=4", "num_inference_steps=2", f"hydra.sweeper.n_trials={TRIALS}", "pictures=0"]
    return main(["experiment=search", f"output_dir={folder}", *small, *more])


def test_a_search_maximises_the_mean_on_validation_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_search(tmp_path, "metric=clip_shapes", "objective=clip_shapes") == 0
    said = capsys.readouterr().out.splitlines()
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    assert 2 <= len(runs) <= TRIALS
    validation = {spec.text for kind in KINDS for spec in prompts("val", kind)}
    assert all(row.prompt in validation for run in runs for row in run.images)
    best = yaml.safe_load((tmp_path / ".hydra" / "optimization_results.yaml").read_text())
    run = max(runs, key=lambda run: average_scores(run.scores)["clip_shapes"])
    assert best["best_value"] == average_scores(run.scores)["clip_shapes"]
    assert best["best_params"] == {
        "curve.concavity": run.identity["curve"]["concavity"],
        "mask_threshold": run.identity["mask"]["threshold"],
        "guidance.guidance_scale": run.identity["guidance"]["guidance_scale"],
    }
    told = " ".join(f"{key}={value}" for key, value in best["best_params"].items())
    assert said[-1] == f"best: {told}  clip_shapes {best['best_value']:.4f} on prompts of val"
    assert run_search(tmp_path, "metric=clip_shapes", "objective=clip_shapes") == 0
    again = capsys.readouterr().out.splitlines()
    assert again[-1] == said[-1] and all("  found  " in line for line in again[:-1])
    assert len(again) == len(said) == TRIALS + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prompt_set.split=test"],
            "objective=exact: never on test prompts; choose prompt_set.split=val",
        ),
        (["objective=clip"], "objective=clip: not among the metrics; add metric=clip"),
    ],
)
def test_a_search_that_would_not_be_honest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run_search(tmp_path, *words) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_a_search_may_be_on_prompts_of_ones_own(lab: Lab) -> None:
    done = lab("--dry-run", "experiment=search", BRIGHTNESS, "objective=brightness")
    assert done.status == 0 and "3 images" in done.out


def test_what_a_search_will_run_is_not_known_before(capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.report.command import main as report

    assert report(["experiment=search"]) == 1
    assert "chooses its runs as it goes; name their folder" in capsys.readouterr().err
