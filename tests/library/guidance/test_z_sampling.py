"""Z-Sampling against its algorithm in a plain loop, and against what it must leave alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from asyndm import (
    DynamicMask,
    ExternalMask,
    GlobalMask,
    NoMask,
    PiecewiseLinear,
    StepRecord,
)
from asyndm.errors import UserError
from asyndm.guidance import ClassifierFree, Guidance, ZSampling
from asyndm.guidance.base import Guided
from asyndm.guidance.moment import Moment, Place
from asyndm.solvers import AB2, DPMSolverPlusPlus2M, Heun, Solver
from tests.library.guidance.plain import (
    ExactNetwork,
    Plain,
    make_level,
    make_moment,
)
from tests.library.test_sampler import measure_distance, sample_latents
from tests.pipelines.registry import PIPELINES

PLAIN = 1e-4
"""Against a loop of other operations, largest difference over the largest latent."""
PROMPT = "a red dog"


def run_z(pipe: Any, guidance: Guidance, **settings: Any) -> Tensor:
    settings = {"mask": NoMask(), "guidance_scale": 5.0, "eta": 0.0, **settings}
    return sample_latents(pipe, PROMPT, ["red dog"], guidance=guidance, **settings)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("inversion_scale", "zigzags"), [(0.0, None), (1.0, 2), (2.5, None)])
def test_it_is_the_algorithm_written_out(
    pipe: StableDiffusionPipeline, eta: float, inversion_scale: float, zigzags: int | None
) -> None:
    steps, g = 5, 5.0

    def zigzag(plain: Plain, x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        if i < (steps - 1 if zigzags is None else zigzags):
            y = plain.ddim(x, plain.evaluate(x, i, g), i, i + 1)
            x = plain.ddim(y, plain.evaluate(y, i, inversion_scale), i + 1, i)
        e = plain.evaluate(x, i, g)
        return x, e, e

    expected = Plain(pipe, PROMPT, steps, eta).sample(zigzag)
    guidance = ZSampling(None, None, inversion_scale, zigzags)
    made = run_z(pipe, guidance, eta=eta, num_inference_steps=steps)
    assert measure_distance(made, expected) <= PLAIN
    plain = run_z(pipe, ClassifierFree(), eta=eta, num_inference_steps=steps)
    assert measure_distance(made, plain) > 100 * PLAIN


def test_with_an_exact_network_the_way_to_and_fro_ends_where_it_began() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    here = 0.05 + 0.9 * torch.rand(2, 1, 8, 8, generator=generator)
    there = here + (1 - here) * torch.rand(2, 1, 8, 8, generator=generator)
    there[:, :, :4] = here[:, :, :4]
    alpha, sigma = make_level(here)
    x = alpha * x0 + sigma * noise
    moved: list[Tensor] = []

    def move(x: Tensor, guided: Guided) -> Tensor:
        moved.append(x)
        return x

    places = [Place(torch.zeros(()), make_level(each)) for each in (here, there)]
    network = ExactNetwork(noise)
    guided = Guided(noise)
    ZSampling(5.0).step(x, guided, make_moment(network, places, move))
    (back,) = moved
    assert network.rows == 3  # beside those of the pipeline
    assert float((back - x).abs().max()) <= 1e-6 * float(x.abs().max())
    assert torch.equal(back[:, :, :4], x[:, :, :4])  # parked


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_zigzags_it_is_classifier_free_guidance(
    pipe: StableDiffusionPipeline, eta: float
) -> None:
    expected = run_z(pipe, ClassifierFree(), eta=eta)
    assert torch.equal(run_z(pipe, ZSampling(zigzags=0), eta=eta), expected)


@dataclass(frozen=True)
class Watched(ZSampling):
    """Keeps of each step the weights and targets before its zigzag and after, and x̃."""

    seen: tuple[Any, ...] = ()

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        run: Any = moment._run
        scheduler, move = run.scheduler, run.move
        weights, rungs = scheduler.weights, moment.look_ahead(1).rungs

        def keep(x: Tensor, guided: Guided) -> Tensor:
            assert scheduler.weights is weights
            assert torch.equal(moment.look_ahead(1).rungs, rungs)
            self.seen[0].append((weights, x))
            made: Tensor = move(x, guided)
            return made

        with patch.object(run, "move", keep):
            return super().step(x, guided, moment)


@dataclass(frozen=True)
class Begun(Guidance):
    """Classifier-free guidance from another x."""

    begin: tuple[Tensor, ...] = ()

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        return self.begin[0] if moment.step == 1 else x


def test_a_step_has_one_mask_and_the_next_ones_is_made_of_its_last_evaluation(
    pipe: StableDiffusionPipeline,
) -> None:
    made: dict[str, list[StepRecord]] = {name: [] for name in ("z", "begun", "cfg")}
    seen: list[Any] = []
    settings: dict[str, Any] = {"mask": DynamicMask(), "eta": 1.0}
    run_z(pipe, Watched(seen=(seen,)), callback=made["z"].append, **settings)
    assert all(record.weights is kept for record, (kept, _) in zip(made["z"], seen, strict=True))
    assert any(float(record.next_timesteps.std()) > 0 for record in made["z"])
    run_z(pipe, Begun(begin=(seen[0][1],)), callback=made["begun"].append, **settings)
    run_z(pipe, ClassifierFree(), callback=made["cfg"].append, **settings)
    first = {name: records[0].maps for name, records in made.items()}
    assert first["z"] is not None and first["begun"] is not None and first["cfg"] is not None
    assert torch.equal(first["z"], first["begun"])
    assert not torch.equal(first["z"], first["cfg"])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_parked_pixels_stay(pipe: StableDiffusionPipeline, eta: float) -> None:
    records: list[StepRecord] = []
    settings: dict[str, Any] = {
        "mask": ExternalMask(np.eye(16)),
        "curve": PiecewiseLinear(1.0),
        "num_inference_steps": 6,
    }
    run_z(pipe, ZSampling(), eta=eta, callback=records.append, **settings)
    parked = [record.timesteps == record.next_timesteps for record in records[:-1]]
    assert any(0 < int(stays.sum()) < 256 for stays in parked[1:])
    for stays, before, after in zip(parked[1:], records, records[1:], strict=False):
        where = stays[:, None].expand_as(before.latents)
        assert torch.equal(after.latents[where], before.latents[where])
        assert not torch.equal(after.latents[~where], before.latents[~where])


@pytest.mark.parametrize("rows", [(0.0, 5), (1.0, 5), (3.0, 6)])
def test_its_cost_is_counted(pipe: StableDiffusionPipeline, rows: tuple[float, int]) -> None:
    records: list[StepRecord] = []
    guidance = ZSampling(5.0, inversion_scale=rows[0], zigzags=3)
    run_z(pipe, guidance, num_inference_steps=5, mask=GlobalMask(), callback=records.append)
    assert records[-1].evaluations == 3 * rows[1] + 2 * 2 == guidance.cost(5).forward
    assert ZSampling(5.5).cost(50).forward == 247


@pytest.mark.parametrize(
    ("name", "solver", "instead"),
    [
        ("sd", DPMSolverPlusPlus2M(), "ddim"),
        ("sd3", AB2(), "euler"),
        ("sd3", Heun(), "euler"),
    ],
)
def test_solvers_that_remember_or_look_ahead_are_refused(
    name: str, solver: Solver, instead: str
) -> None:
    pipe = PIPELINES[name].build()
    with pytest.raises(UserError, match=rf"z_sampling.*solver={solver.name}.*solver={instead}$"):
        sample_latents(pipe, "a dog", None, mask=NoMask(), guidance=ZSampling(), solver=solver)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zigzags": -1}, r"guidance\.zigzags must be a whole number .* got -1"),
        ({"zigzags": True}, r"guidance\.zigzags .* got True"),
        ({"zigzags": 2.5}, r"guidance\.zigzags .* got 2\.5"),
        (
            {"inversion_scale": "low"},
            r"guidance\.inversion_scale must be a finite number, got 'low'",
        ),
        ({"inversion_scale": float("inf")}, r"guidance\.inversion_scale .* got inf"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ZSampling(**settings)


def test_it_needs_the_negative_prompts_row(pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(UserError, match="guidance=z_sampling needs .* guidance_scale=1"):
        run_z(pipe, ZSampling(), guidance_scale=1.0)


def test_its_label_has_what_is_not_usual() -> None:
    assert ZSampling(5.5).label == "z_sampling 5.5"
    assert ZSampling(5.5, None, 1.0, 12).label == "z_sampling back at 1 in 12 5.5"
