"""The training script: its parts, and all its stages once, for seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from asyndm.errors import UserError
from asyndm.protocols import Pipeline
from asyndm.shapes.model import WEIGHTS, build_autoencoder, load_pipeline
from asyndm.shapes.render import render
from experiments.training.shapes.autoencoder import standardise
from experiments.training.shapes.command import main
from experiments.training.shapes.dataset import SHARES, draw_specs, locate_words, make_dataset
from experiments.training.shapes.denoiser import (
    Training,
    compute_losses,
    draw_batches,
    draw_timesteps,
    train_denoiser,
)
from experiments.training.shapes.settings import Recipe, Settings
from tests.forks import Fork

ROOT = Path(__file__).parents[3]


def test_every_kind_is_drawn_from_its_training_prompts() -> None:
    specs = draw_specs(400, torch.Generator().manual_seed(0))
    assert abs(sum(SHARES.values()) - 1) < 1e-9
    assert {spec.kind for spec in specs} == set(SHARES)


def test_words_of_names_every_colour_and_shape_by_its_thing() -> None:
    specs = draw_specs(50, torch.Generator().manual_seed(1))
    for spec in specs:
        words = spec.text.replace(",", " ,").split()
        named = [(words[position - 1], owner) for position, owner in locate_words(spec)]
        assert named == [(w, i) for i, thing in enumerate(spec.things) for w in thing.name.split()]


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_noise_levels_differ_between_objects_and_background_only_when_mixed(mixed: float) -> None:
    regions = torch.zeros(64, 3, 16, 16)
    regions[:, 1, 4:8, 4:8] = 1
    rows, index = draw_timesteps(64, mixed, regions, 1000, torch.Generator().manual_seed(0))
    levels = rows[index]
    on, off = levels[:, 6, 6], levels[:, 15, 15]
    assert (levels[:, 4:8, 4:8] == on[:, None, None]).all()
    assert levels.min() >= 0 and levels.max() <= 999
    assert (on == off).all() if mixed == 0 else ((on > off).float().mean() > 0.6)


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    pipe = load_pipeline("shapes")
    return make_dataset(pipe.vae.float(), pipe.tokenizer, 32, torch.Generator().manual_seed(0))


def test_training_learns_and_goes_on_where_it_was(
    tmp_path: Path, data: dict[str, torch.Tensor]
) -> None:
    recipe, path = Recipe(seconds=0, batch_size=32, warmup=1), tmp_path / "state.pt"

    def losses(training: Training, pipe: Pipeline, steps: int) -> list[float]:
        generator = torch.Generator().manual_seed(5)
        empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        batch = next(draw_batches(data, empty, recipe, generator))
        values = []
        for step in range(steps):
            noise = torch.Generator().manual_seed(step % 2)
            alphas_bar = pipe.scheduler.alphas_cumprod
            loss, _ = compute_losses(training.net, batch, alphas_bar, recipe, noise)
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


def test_standardised_latents_have_mean_0_and_deviation_1_and_decode_to_the_same() -> None:
    torch.manual_seed(0)
    vae = build_autoencoder().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    pictures = render(draw_specs(256, generator), generator).images * 2 - 1
    before = vae.decode(vae.encode(pictures[:8]).latent_dist.mean).sample
    standardise(vae, 0)
    latents = vae.encode(pictures).latent_dist.mean
    assert latents.mean((0, 2, 3)).abs().max() < 0.15
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.15
    assert torch.allclose(vae.decode(latents[:8]).sample, before, atol=1e-4)


def test_a_branch_begins_with_the_trunk_and_counts_for_itself(
    tmp_path: Path, data: dict[str, torch.Tensor]
) -> None:
    trunk, branch, recipe = tmp_path / "trunk.pt", tmp_path / "branch.pt", Recipe(seconds=1.0)
    pipe = load_pipeline("shapes")
    first = train_denoiser(pipe, data, recipe, seed=0, state=trunk, report=lambda line: None)
    other = load_pipeline("shapes_mixed")
    begun = Training(other, recipe, branch, trunk)
    assert (begun.step, begun.samples, begun.seconds) == (0, 0, 0)
    averages = begun.average.unet.state_dict()
    assert all(
        torch.equal(averages[name], weight) for name, weight in pipe.unet.state_dict().items()
    )
    second = train_denoiser(
        other, data, recipe, seed=1, state=branch, start=trunk, report=lambda line: None
    )
    assert second["samples"] == 32 * second["steps"] and 1 <= second["seconds"] < 10
    resumed = train_denoiser(
        load_pipeline("shapes"),
        data,
        recipe,
        seed=1,
        state=branch,
        start=trunk,
        report=lambda line: None,
    )
    assert resumed == second and second["loss"] < 1
    assert first["steps"] > 0


def make_settings(out: Path) -> list[str]:
    """Seconds for hours."""
    short = [
        f"out={out}",
        "workers=1",
        "pictures=64",
        "trunk.seconds=1",
        "branches.shapes.seconds=1",
    ]
    return [
        *short,
        "branches.shapes_mixed.seconds=1",
        "polish.steps=1",
        "polish.pool=8",
        "polish.batch_size=2",
    ]


def run_command(out: Path, *more: str) -> tuple[int | None, str, str]:
    """The command's exit status and what it says, in a copy of this process."""

    def act() -> int:
        sys.argv = ["experiments.training.shapes", *make_settings(out), *more]
        main()
        return 0

    fork = Fork(act, ROOT)
    said, error = fork.communicate(timeout=300)
    return fork.returncode, said, error


def test_all_stages_leave_checkpoints_that_load(tmp_path: Path) -> None:
    status, _, error = run_command(tmp_path, f"start_from={WEIGHTS / 'shapes'}")
    assert status == 0, error
    shipped, trained, mixed, trunk = (
        StableDiffusionPipeline.from_pretrained(folder)
        for folder in (
            WEIGHTS / "shapes",
            tmp_path / "shapes",
            tmp_path / "shapes_mixed",
            tmp_path / "trunk",
        )
    )
    for kept in ("encoder", "quant_conv"):
        new = getattr(trained.vae, kept).state_dict()
        assert all(
            torch.equal(new[name], w) for name, w in getattr(shipped.vae, kept).state_dict().items()
        )
    networks = [pipe.unet.conv_in.weight.half() for pipe in (shipped, trunk, trained, mixed)]
    for i, one in enumerate(networks):
        assert not any(torch.equal(one, other) for other in networks[:i])
    status, said, _ = run_command(tmp_path, f"start_from={WEIGHTS / 'shapes'}")
    assert status == 0 and said and "branch" not in said
    longer = "branches.shapes.seconds=2"
    status, _, error = run_command(tmp_path, f"start_from={WEIGHTS / 'shapes'}", longer)
    assert status == 1
    assert error.strip() == (
        f"error: out={tmp_path}: holds stages made with other settings; "
        "choose another, or delete it"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("start_from=/no/such/folder", "start_from=/no/such/folder: not a checkpoint"),
        ("workers=0", "workers=0: must be at least 1"),
        ("trunk.batch_size=65", "pictures=64: fewer than trunk.batch_size=65"),
        (
            "branches.shapes.mixed_share=2",
            "branches.shapes.mixed_share=2.0: must be between 0 and 1",
        ),
        ("+polish.shares.four=1", "polish.shares.four: no such kind; choose from one, two"),
        ("trunk.learning_rate=-1", "trunk.learning_rate=-1.0: must be at least 0"),
        ("polish.kl_weight=-1", "polish.kl_weight=-1.0: must be at least 0"),
        ("out=/proc/no", "/proc/no: cannot be written to"),
        ("trunk.seconds=long", "error: trunk.seconds=long: Value 'long'"),
        ("trunk.second=1", "error: trunk.second: no such setting (did you mean trunk.seconds?)"),
        ("foo=1", "error: foo: no such setting; see --cfg job for those there are"),
        ("foo", "error: foo: no setting; give NAME=VALUE"),
        ("out=???", "missing mandatory value: out"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(
    tmp_path: Path,
    setting: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["experiments.training.shapes", *make_settings(tmp_path / "out"), setting]
    )
    with pytest.raises(SystemExit) as end:
        main()
    said = f"{end.value}{capsys.readouterr().err}"
    assert said.startswith("error: ") and message in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def test_help_says_what_it_does_and_lists_its_own_settings_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments.training.shapes", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = capsys.readouterr().out
    assert shown.startswith("Trains the embedded models from nothing: ")
    assert "python -m experiments.training.shapes trunk.seconds=300" in shown
    assert "start_from: null" in shown and "prompt_set" not in shown


def test_a_branch_cannot_take_the_files_of_another_stage() -> None:
    settings = Settings(branches={"trunk": Recipe(seconds=1)})
    with pytest.raises(UserError, match="branches.trunk: a name of another stage's files"):
        settings.check()
