"""The training script: its parts, and all its stages once, for seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import asyndm
from asyndm.errors import UserError
from asyndm.models import load
from asyndm.protocols import Network, Pipeline
from asyndm.shapes.model import WEIGHTS, build_autoencoder, load_pipeline
from asyndm.shapes.render import render
from evaluation.choices import CONF
from experiments.training.shapes.adapter import add_adapter, save_adapter
from experiments.training.shapes.autoencoder import standardise
from experiments.training.shapes.command import main
from experiments.training.shapes.dataset import SHARES, draw_specs, locate_words, make_dataset
from experiments.training.shapes.denoiser import (
    Training,
    compute_losses,
    draw_batches,
    train_denoiser,
)
from experiments.training.shapes.settings import (
    AutoencoderRecipe,
    Recipe,
    Settings,
    Slow,
    register,
)
from experiments.training.shapes.stages import adopt_autoencoder, begin_trunk, polish_decoder
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


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    pipe = load_pipeline("shapes")
    return make_dataset(pipe.vae.float(), pipe.tokenizer, 32, torch.Generator().manual_seed(0))


def test_training_learns_and_goes_on_where_it_was(
    tmp_path: Path, data: dict[str, torch.Tensor]
) -> None:
    recipe, path = Recipe(seconds=0, batch_size=16, warmup=1), tmp_path / "state.pt"

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
    assert (resumed.step, resumed.samples) == (12, 12 * 16)
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
    return [
        f"out={out}",
        "workers=1",
        "pictures=64",
        "trunk.seconds=1",
        "branches.shapes.seconds=1",
        "branches.shapes_mixed.seconds=1",
        "polish.steps=1",
        "polish.pool=8",
        "polish.batch_size=2",
    ]


def run_command(*words: str) -> tuple[int | None, str, str]:
    """The command's exit status and what it says, in a copy of this process."""

    def act() -> int:
        sys.argv = ["experiments.training.shapes", *words]
        main()
        return 0

    fork = Fork(act, ROOT)
    said, error = fork.communicate(timeout=300)
    return fork.returncode, said, error


def test_all_stages_leave_checkpoints_that_load(tmp_path: Path) -> None:
    words = [
        *make_settings(tmp_path),
        "branches.shapes_mixed.lora_rank=2",
        f"start_from={WEIGHTS / 'shapes'}",
    ]
    status, said, error = run_command(*words)
    assert status == 0, error
    assert f"done: {tmp_path}/shapes, {tmp_path}/shapes_mixed; " in said
    shipped, trained, trunk = (
        StableDiffusionPipeline.from_pretrained(folder)
        for folder in (WEIGHTS / "shapes", tmp_path / "shapes", tmp_path / "trunk")
    )
    for kept in ("encoder", "quant_conv"):
        assert have_same_weights(getattr(trained.vae, kept), getattr(shipped.vae, kept))
    networks = [pipe.unet.conv_in.weight.half() for pipe in (shipped, trunk, trained)]
    for i, one in enumerate(networks):
        assert not any(torch.equal(one, other) for other in networks[:i])
    adapted = load(tmp_path / "trunk", device="cpu", lora=tmp_path / "shapes_mixed")
    factors = [w for name, w in adapted.unet.named_parameters() if "lora_B" in name]
    assert factors and all(weight.shape[1] == 2 and weight.any() for weight in factors)
    record = json.loads((tmp_path / "shapes_mixed_branch.json").read_text())
    assert record["samples"] == 32 * record["steps"] > 0
    status, said, _ = run_command(*words)
    assert status == 0 and said and "branch" not in said
    status, _, error = run_command(*words, "branches.shapes.seconds=2")
    assert status == 1
    assert error.strip() == (
        f"error: out={tmp_path}: holds stages made with other settings; "
        "choose another, or delete it"
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_the_trunk_begins_with_the_networks_of_a_checkpoint_unless_they_are_to_be_fresh(
    tmp_path: Path, fresh: bool
) -> None:
    settings = Settings(seed=20, start_from=str(WEIGHTS / "shapes"), fresh=fresh)
    adopt_autoencoder(tmp_path, settings)
    begun, shipped = begin_trunk(tmp_path, settings), load_pipeline("shapes")
    assert have_same_weights(begun.unet, shipped.unet) != fresh
    assert have_same_weights(begun.text_encoder, shipped.text_encoder) != fresh


def test_without_time_trunk_and_decoder_stay_as_they_are(
    tmp_path: Path, data: dict[str, torch.Tensor]
) -> None:
    kept = AutoencoderRecipe(seconds=0)
    settings = Settings(seed=0, workers=1, start_from=str(WEIGHTS / "shapes"), polish=kept)
    adopt_autoencoder(tmp_path, settings)
    polish_decoder(tmp_path, settings)
    pipe, shipped = load_pipeline("shapes"), load_pipeline("shapes")
    polished = AutoencoderKL.from_pretrained(tmp_path / "vae_polished")
    assert have_same_weights(polished, shipped.vae)
    record = train_denoiser(pipe, data, Recipe(seconds=0), seed=0, report=lambda line: None)
    assert record["steps"] == 0 and have_same_weights(pipe.unet, shipped.unet)


def have_same_weights(one: Network, other: Network) -> bool:
    weights = other.state_dict()
    return all(torch.equal(weights[name], weight) for name, weight in one.state_dict().items())


def test_a_lora_is_trained_beside_frozen_weights_and_changes_pictures_as_where_it_was_trained(
    tmp_path: Path, data: dict[str, torch.Tensor]
) -> None:
    pipe, plain = load_pipeline("shapes"), load_pipeline("shapes")
    add_adapter(pipe, rank=2, seed=0)
    recipe = Recipe(seconds=1.0, warmup=1, mixed_share=0.4, lora_rank=2)
    train_denoiser(pipe, data, recipe, seed=0, report=lambda line: None)
    save_adapter(pipe, tmp_path)
    assert have_same_weights(plain.text_encoder, pipe.text_encoder)
    kept = {
        name.replace("base_layer.", ""): weight
        for name, weight in pipe.unet.state_dict().items()
        if "lora" not in name
    }
    assert all(torch.equal(kept[name], weight) for name, weight in plain.unet.state_dict().items())
    loaded = load(WEIGHTS / "shapes", device="cpu", lora=tmp_path)

    def draw(of: Pipeline) -> torch.Tensor:
        drawn: torch.Tensor = asyndm.sample(
            of, "a red circle", ["red circle"], num_inference_steps=2, output_type="pt"
        )
        return drawn

    pictures = draw(loaded)
    assert torch.equal(pictures, draw(pipe)) and not torch.equal(pictures, draw(plain))


def test_every_training_composes_and_its_settings_are_right() -> None:
    register()
    found = {}
    for path in sorted((CONF / "training").glob("*.yaml")):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            settings = OmegaConf.to_object(compose("train_shapes", [f"training={path.stem}"]))
        assert isinstance(settings, Settings)
        settings.check()
        found[path.stem] = settings
    assert set(found["both"].branches) == {"shapes", "shapes_mixed"} and not found["both"].fresh
    assert found["free"].branches["shapes_free"].slow is Slow.anything
    assert found["again"].fresh and found["again"].seed > found["both"].seed + 10
    assert len({of.out for of in found.values()}) == len(found)
    both, again = found["both"].branches, found["again"].branches
    assert again["shapes_again"] == both["shapes"]
    assert again["mixed_again"] == both["shapes_mixed"]
    free = replace(again["free_again"], slow=Slow.objects)
    assert free == both["shapes_mixed"]
    minutes = found["minutes"].branches
    assert [recipe.seconds for recipe in minutes.values()] == [60, 60, 300, 300, 1200, 1200]


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
        ("branches.shapes.slow=sky", "branches.shapes.slow=sky: Invalid value 'sky', expected one"),
        ("trunk.lora_rank=4", "trunk.lora_rank=4: a LoRA is of a branch"),
        ("autoencoder.seconds=0", "autoencoder.seconds=0.0: must be at least 1"),
        ("training=long", "training=long: no such choice; choose from again, both, free, minutes"),
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
