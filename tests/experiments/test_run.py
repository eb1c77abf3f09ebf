"""Runs from the command line: what they leave, what is found, what is made again."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from evaluation.runs.files import hash_file
from evaluation.runs.folder import (
    PROMPTS_FILE,
    SCORES_FILE,
    Run,
    read_prompts,
    read_run,
)
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from experiments.engine.runner import draw_grid
from tests.experiments.breaking import obey_permissions
from tests.experiments.metrics import Brightness
from tests.lab import BRIGHTNESS, COUNTING, Lab, read_images


def test_a_run_leaves_its_record_its_images_and_its_scores(lab: Lab) -> None:
    result = lab("images_per_prompt=2", "seed=5", "noise=shared", BRIGHTNESS)
    assert result.status == 0
    assert (
        len(result.out.splitlines()) == 1
        and "6 images" in result.out
        and "brightness" in result.out
    )
    folder = lab.only_run()
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "state.json",
        "prompts.json",
        "images.csv",
        "scores.csv",
        "grid.png",
        "strip.png",
        "images",
        "traces",
        "previews",
        ".lock",
        ".stamps.csv",
        ".state.alive",
    }
    run = read_run(folder)
    assert folder.name == f"{run.record['label']}-{run.record['run_id']}" and run.state == "done"
    assert run.record["timings"]["images_sampled"] == 6
    assert set(run.record["model"]["sha256"]) >= {"unet/diffusion_pytorch_model.safetensors"}
    assert [(row.kind, row.image_index, row.seed) for row in run.images[:3]] == [
        ("pair", 0, 5),
        ("pair", 1, 6),
        ("pair", 0, 5),
    ]
    assert run.images[2].subjects == ("dog", "red cat")
    assert all(hash_file(folder / row.file) == row.sha256 for row in run.images)
    assert len({row.sha256 for row in run.images}) == 6
    prompts = read_prompts(folder / PROMPTS_FILE)
    assert [prompts[row.prompt_id].text for row in run.images] == [row.prompt for row in run.images]
    assert [row.key for row in run.scores] == [row.key for row in run.images]
    assert all(
        row.metric == "brightness" and 0 < row.value < 1
        for row in run.scores
        if row.value is not None
    )


def test_a_run_asked_for_again_is_found_without_the_model(lab: Lab) -> None:
    lab()
    before = {
        path: path.stat().st_mtime_ns for path in lab.runs.rglob("*.*") if ".hydra" not in str(path)
    }
    code = (
        "import sys; from experiments.run import main; "
        "assert not main() and 'torch' not in sys.modules"
    )
    again = lab.start(code=("-c", code))
    out, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    assert "  found  " in out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_grid_is_framed_by_any_right_or_wrong_metric(tmp_path: Path) -> None:
    keys = [("a", 0), ("b", 0), ("c", 0)]
    images = []
    for prompt_id, _ in keys:
        Image.new("RGB", (16, 16), "grey").save(tmp_path / f"{prompt_id}.png")
        images.append(ImageRow("r", prompt_id, "a cat", (), "", 0, 0, f"{prompt_id}.png", ""))

    def grid_of(**metrics: list[float | None]) -> bytes:
        scores = [
            ScoreRow("r", *key, name, value)
            for name, values in metrics.items()
            for key, value in zip(keys, values, strict=True)
        ]
        return draw_grid(Run(tmp_path, {}, "done", images, scores)).tobytes()

    framed = grid_of(exact=[1, 0, None])
    assert framed == grid_of(distance=[0.5, 1, 0], judge=[1, 0, None])
    assert len({framed, grid_of(), grid_of(judge=[0, 1, None]), grid_of(judge=[1, 0, 0])}) == 4


def test_another_metric_is_added_without_sampling(lab: Lab) -> None:
    lab()
    folder = lab.only_run()
    before = {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    assert lab(BRIGHTNESS).status == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()} == before
    rows = read_rows(folder / SCORES_FILE, ScoreRow)
    assert [row.metric for row in rows] == ["brightness"] * 3


def test_scores_of_another_version_of_a_metric_are_replaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab(BRIGHTNESS)
    path = lab.only_run() / SCORES_FILE
    right = path.read_text()
    path.write_text(right.replace("0.", "7.", 1))
    assert "  found  " in lab(BRIGHTNESS).out and path.read_text() != right
    monkeypatch.setattr(Brightness, "version", 2)
    assert "  found  " not in lab(BRIGHTNESS).out and path.read_text() == right
    assert read_run(path.parent).record["metrics"] == {
        "brightness": {"version": 2, "higher_is_better": True}
    }
    assert "  found  " in lab(BRIGHTNESS).out


def test_what_older_scores_do_not_count_is_added_where_it_can_be_kept(lab: Lab) -> None:
    said = lab(COUNTING)
    assert "brightness_surplus 2.000  brightness_missing 0.000" in said.out
    folder = lab.only_run()
    images, right = read_images(folder), (folder / SCORES_FILE).read_text()
    older = "".join(line.rsplit(",", 2)[0] + "\n" for line in right.splitlines())
    (folder / SCORES_FILE).write_text(older)
    folder.chmod(0o555)
    process = lab.fork(COUNTING, hook=obey_permissions)
    out, error = process.communicate(timeout=60)
    folder.chmod(0o755)
    assert process.returncode == 0 and "  found  " in out and "surplus" not in out, error
    result = lab(COUNTING)
    assert result.lines == [] and "  found  " not in result.out
    assert (folder / SCORES_FILE).read_text() == right and read_images(folder) == images
    assert "  found  " in lab(COUNTING).out


def test_pictures_that_cannot_be_scored_say_why(lab: Lab) -> None:
    (lab.folder / "prompts.yaml").write_text(
        "- {text: a cat, subjects: [cat]}\n- {text: a dog, subjects: [dog], kind: x}\n"
    )
    lab(BRIGHTNESS)
    rows = read_rows(lab.only_run() / SCORES_FILE, ScoreRow)
    assert [(row.value is None, row.reason) for row in rows] == [(True, "no kind"), (False, "")]


def test_two_processes_on_one_run_share_it(lab: Lab) -> None:
    overrides = ("images_per_prompt=8", "num_inference_steps=8", "batch_size=2", BRIGHTNESS)
    both = [lab.fork(*overrides), lab.fork(*overrides)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    run = read_run(lab.only_run())
    assert (
        len(run.images) == len(run.scores) == 24 and run.record["timings"]["images_sampled"] == 24
    )
    assert all(hash_file(run.folder / row.file) == row.sha256 for row in run.images)
    assert run.state == "done" and not list(run.folder.glob(".claims"))
    assert not list(run.folder.rglob("*.tmp"))


def test_a_run_that_was_interrupted_goes_on(lab: Lab) -> None:
    overrides = ("images_per_prompt=8", "num_inference_steps=12", "batch_size=2")
    process = lab.fork(*overrides)
    deadline = time.monotonic() + 60
    while not list(lab.runs.rglob("images/a*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    folder = lab.only_run()
    before = {
        name: content for name, content in read_images(folder).items() if not name.startswith(".")
    }
    assert 0 < len(before) < 24
    assert json.loads((folder / "state.json").read_text())["state"] == "interrupted"
    assert lab(*overrides).status == 0
    after = read_images(folder)
    assert len(after) == 24
    assert all(after[name] == content for name, content in before.items())


def test_a_sweep_makes_each_run_once(lab: Lab) -> None:
    overrides = (
        "-m",
        "mask=none,global,dynamic",
        "curve=quadratic,exponential",
        "num_inference_steps=2,3",
    )
    first, second = lab(*overrides), lab(*overrides)
    assert (first.status, second.status) == (0, 0)
    assert len(first.out.splitlines()) == 12 and first.out.count("  found  ") == 2
    assert second.out.count("  found  ") == 12
    folders = {path.name for path in lab.runs.iterdir()} - {".hydra"}
    assert len(folders) == 2 * (1 + 2 + 2)
    assert not [path for path in lab.folder.iterdir() if path.name not in ("prompts.yaml", "runs")]


def test_the_command_line_replaces_what_an_experiment_sweeps(lab: Lab) -> None:
    result = lab(
        "experiment=demo", "mask=none,global", "curve=exponential", "limit=1", "pictures=0"
    )
    assert result.status == 0, result.error
    labels = [line.split()[0] for line in result.out.splitlines()]
    assert labels == ["folder-DM-2", "folder-DM_concave-exponential-0.5-2"]


def test_concavities_are_swept(lab: Lab) -> None:
    result = lab("-m", "curve.concavity=0,0.3,0.7")
    assert result.status == 0
    assert ["DM-2" in line for line in result.out.splitlines()] == [True, False, False]


def test_a_failing_job_does_not_stop_the_others(lab: Lab) -> None:
    broken = lab.folder / "broken"
    shutil.copytree(lab.pipeline, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = lab("-m", f"model.path={broken},{lab.pipeline}", "mask=dynamic,none")
    assert result.status == 1
    assert len(result.out.splitlines()) == 2
    assert (
        sum(
            line.startswith("error: ") and "broken' cannot be loaded" in line
            for line in result.lines
        )
        == 2
    )
    states = [json.loads(path.read_text()) for path in lab.runs.rglob("state.json")]
    assert sorted(state["state"] for state in states) == ["done", "done", "failed", "failed"]
    failed = next(state for state in states if state["state"] == "failed")
    assert "cannot be loaded" in failed["error"] and "Traceback" in failed["traceback"]


def test_an_external_mask_and_other_sizes_run(lab: Lab) -> None:
    import numpy as np

    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(lab.folder / "mask.png")
    result = lab(
        "mask=external",
        f"mask.image={lab.folder / 'mask.png'}",
        "height=32",
        "width=64",
        "guidance=none",
    )
    assert result.status == 0, result.error
    assert Image.open(next((lab.only_run() / "images").iterdir())).size == (64, 32)


@pytest.mark.parametrize("mask", ["global", "static"])
def test_the_other_masks_run(lab: Lab, mask: str) -> None:
    assert lab(f"mask={mask}", "curve=piecewise_linear", "eta=0").status == 0


def test_pictures_without_a_value_are_counted(lab: Lab) -> None:
    (lab.folder / "prompts.yaml").write_text("- {text: a red dog, kind: single}\n- {text: a cat}\n")
    out = lab(BRIGHTNESS, "mask=none").out
    assert "2 images  brightness 0." in out and "  1 without brightness  " in out
