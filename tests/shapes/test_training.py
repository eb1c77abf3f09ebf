"""The training script: its parts, and all its stages once, for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from asyndm.shapes.model import WEIGHTS, load_pipeline
from experiments.train_shapes.dataset import SHARES, draw_specs, make_dataset, words_of
from experiments.train_shapes.denoiser import Recipe, Training, batch_loss, batches, noise_levels

ROOT = Path(__file__).parents[2]


def test_every_kind_is_drawn_from_its_training_prompts() -> None:
    specs = draw_specs(400, torch.Generator().manual_seed(0))
    assert abs(sum(SHARES.values()) - 1) < 1e-9
    assert {spec.kind for spec in specs} == set(SHARES)


def test_words_of_names_every_colour_and_shape_by_its_thing() -> None:
    specs = draw_specs(50, torch.Generator().manual_seed(1))
    for spec in specs:
        words = spec.text.replace(",", " ,").split()
        named = [(words[position - 1], owner) for position, owner in words_of(spec)]
        assert named == [(w, i) for i, thing in enumerate(spec.things) for w in thing.name.split()]


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_noise_levels_differ_between_objects_and_background_only_when_mixed(mixed: float) -> None:
    regions = torch.zeros(64, 3, 16, 16)
    regions[:, 1, 4:8, 4:8] = 1
    rows, index = noise_levels(64, mixed, regions, 1000, torch.Generator().manual_seed(0))
    levels = rows[index]
    on, off = levels[:, 6, 6], levels[:, 15, 15]
    assert (levels[:, 4:8, 4:8] == on[:, None, None]).all()
    assert levels.min() >= 0 and levels.max() <= 999
    assert (on == off).all() if mixed == 0 else ((on > off).float().mean() > 0.6)


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    pipe = load_pipeline("shapes")
    return make_dataset(pipe.vae.float(), pipe.tokenizer, 32, torch.Generator().manual_seed(0))


def test_training_learns_and_goes_on_where_it_was(tmp_path: Path, data: dict[str, torch.Tensor]) -> None:
    recipe, path = Recipe(seconds=0, batch_size=32, warmup=1), tmp_path / "state.pt"

    def losses(training: Training, pipe: StableDiffusionPipeline, steps: int) -> list[float]:
        generator = torch.Generator().manual_seed(5)
        empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        batch = next(batches(data, empty, recipe, generator))
        values = []
        for step in range(steps):
            noise = torch.Generator().manual_seed(step % 2)
            loss, _ = batch_loss(training.net, batch, pipe.scheduler.alphas_cumprod, recipe, noise)
            training.update(loss, 1e-3)
            values.append(float(loss.detach()))
        return values

    pipe = load_pipeline("shapes")
    training = Training(pipe, recipe, path)
    first = losses(training, pipe, 12)
    assert sum(first[-2:]) < 0.9 * sum(first[:2])
    training.save()
    other = load_pipeline("shapes_mixed")
    resumed = Training(other, recipe, path)
    assert (resumed.step, resumed.samples) == (12, 12 * 32)
    assert losses(training, pipe, 2) == losses(resumed, other, 2)


def test_all_stages_leave_checkpoints_that_load(tmp_path: Path) -> None:
    short = [
        "trunk.seconds=1",
        "branches.shapes.seconds=1",
        "branches.shapes_mixed.seconds=1",
        "polish.steps=2",
    ]
    command = [
        sys.executable,
        "-m",
        "experiments.train_shapes",
        f"out={tmp_path}",
        "workers=1",
        "pictures=64",
    ]
    start = [f"start_from={WEIGHTS / 'shapes'}", "polish.pool=32", "polish.batch_size=8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(
        [*command, *short, *start], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    shipped, trained = (StableDiffusionPipeline.from_pretrained(p / "shapes") for p in (WEIGHTS, tmp_path))
    for kept in ("encoder", "quant_conv"):
        new = getattr(trained.vae, kept).state_dict()
        assert all(torch.equal(new[name], w) for name, w in getattr(shipped.vae, kept).state_dict().items())
    assert not torch.equal(trained.unet.conv_in.weight, shipped.unet.conv_in.weight)
    assert json.loads((tmp_path / "shapes_mixed_branch.json").read_text())["steps"] > 0
