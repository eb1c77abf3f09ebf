"""The loop against an exactly known network: data that is Gaussian at every pixel."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from asyndm.algorithm import Schedule, StepRecord, denoise
from asyndm.curves import Curve, Exponential, Horizon, PiecewiseLinear, Quadratic
from asyndm.masks import GlobalMask, Mask, NoMask, Scene
from asyndm.steps import PREDICTION_TYPES, AlphaTable, Prediction
from tests.conftest import SD_SCHEDULER

MEAN, DEVIATION = 0.7, 0.4
SCHEDULER = DDIMScheduler(**SD_SCHEDULER)
ALPHAS = AlphaTable.from_scheduler(SCHEDULER)


class Flipping(Mask):
    """Every pixel joins or leaves its subject at random, at every step."""

    name = "flipping"

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        return torch.randint(0, 2, weights.shape, generator=self.generator).double()


def exact_network(prediction_type: str) -> Callable[[Tensor, Tensor], tuple[Tensor, None]]:
    """The minimum-variance prediction for x₀ ~ N(MEAN, DEVIATION²): a closed form, at each pixel's own level."""

    def network(x: Tensor, index: Tensor) -> tuple[Tensor, None]:
        a = ALPHAS.alphas[index][:, None].double()
        variance = a * DEVIATION**2 + 1 - a
        x0 = MEAN + a.sqrt() * DEVIATION**2 / variance * (x - a.sqrt() * MEAN)
        epsilon = (x - a.sqrt() * x0) / (1 - a).sqrt()
        outputs = {"epsilon": epsilon, "sample": x0, "v_prediction": a.sqrt() * epsilon - (1 - a).sqrt() * x0}
        return outputs[prediction_type], None

    return network


def run(
    steps: int, mask: Mask, curve: Curve, *, eta: float, prediction_type: str = "epsilon", size: int = 24
) -> tuple[Tensor, Tensor, list[StepRecord]]:
    horizon = Horizon(steps)
    scene = Scene(torch.tensor([[0.8, 0.3]] * 2, dtype=torch.float64), (size, size))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((steps + 1, 2, 4, size, size), generator=generator, dtype=torch.float64)
    records: list[StepRecord] = []
    final = denoise(
        exact_network(prediction_type),
        noise[0],
        mask.initial(scene, lambda: noise[0]),
        horizon=horizon,
        schedule=Schedule(curve, horizon, scene),
        mask=mask,
        scene=scene,
        alphas=ALPHAS,
        prediction=Prediction(prediction_type),
        eta=eta,
        noise=noise[1:],
        callback=records.append,
    )
    return noise[0], final, records


def exact(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The probability-flow solution from ᾱ = start to ᾱ = end: quantiles are kept."""
    deviation = [(a * DEVIATION**2 + 1 - a).sqrt() for a in (start, end)]
    return end.sqrt() * MEAN + deviation[1] / deviation[0] * (x - start.sqrt() * MEAN)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("make_mask", [NoMask, GlobalMask, Flipping])
def test_ddim_converges_to_the_analytic_answer(make_mask: type[Mask], prediction_type: str) -> None:
    errors = []
    for steps in (40, 160, 640):
        x, final, records = run(
            steps, make_mask(), Quadratic(), eta=0.0, prediction_type=prediction_type, size=8
        )
        answer = exact(x, ALPHAS.at(records[0].timesteps).double(), ALPHAS.clean.double())
        errors.append(float((final - answer).abs().max()))
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]
    assert errors[-1] < 0.02


@pytest.mark.parametrize(
    "curve", [Quadratic(), PiecewiseLinear(), Exponential()], ids=lambda curve: curve.name
)
@pytest.mark.parametrize("make_mask", [GlobalMask, Flipping])
def test_with_noise_the_distribution_converges_to_that_of_the_data(
    make_mask: type[Mask], curve: Curve
) -> None:
    errors = []
    for steps in (40, 160, 640):
        _, final, _ = run(steps, make_mask(), curve, eta=1.0, size=32)
        assert abs(float(final.mean()) - MEAN) < 4 * DEVIATION / final.numel() ** 0.5
        errors.append(abs(float(final.std()) - DEVIATION))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 0.012


def test_records_tell_what_happened() -> None:
    _, final, records = run(6, Flipping(), Quadratic(), eta=1.0)
    assert [(record.step, record.remaining) for record in records] == [(i, 6 - i) for i in range(1, 7)]
    for record, following in itertools.pairwise(records):
        assert torch.equal(record.next_timesteps, following.timesteps)
    assert (records[-1].next_timesteps == 0).all() and torch.equal(records[-1].latents, final)
    spread = [float(record.timesteps.max() - record.timesteps.min()) for record in records]
    assert spread[0] == 0 and max(spread) > 50
    mask_before = [float(record.weights.mean()) for record in records[:2]]
    assert mask_before[0] == 0.5 and 0.4 < mask_before[1] < 0.6
    assert records[1].timesteps.unique().numel() == 1 and records[2].timesteps.unique().numel() > 1
