"""The loop against an exactly known network: data that is Gaussian at every pixel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from asyndm.course import expand_map
from asyndm.curves import Curve, Exponential, PiecewiseLinear, Quadratic
from asyndm.errors import UserError
from asyndm.ladder import Level
from asyndm.masks import GlobalMask, Mask, NoMask
from asyndm.method import Method
from asyndm.records import StepRecord
from asyndm.scene import Scene
from asyndm.scheduler import AsynchronousScheduler
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.steps import FLOW, PREDICTION_TYPES

MEAN, DEVIATION = 0.7, 0.4
CONCAVITY = torch.tensor([[0.8, 0.3]] * 2, dtype=torch.float64)


class Flipping(Mask):
    """Every pixel joins or leaves its subject at random, at every step."""

    name = "flipping"

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        return torch.randint(0, 2, weights.shape, generator=self.generator).double()


def predict_exactly(prediction_type: str, x: Tensor, level: Level) -> Tensor:
    """The minimum-variance prediction for x₀ ~ N(MEAN, DEVIATION²): a closed form, at each pixel's
    own level."""
    alpha, sigma = level.alpha.double(), level.sigma.double()
    variance = (alpha * DEVIATION) ** 2 + sigma**2
    x0 = MEAN + alpha * DEVIATION**2 / variance * (x - alpha * MEAN)
    epsilon = (x - alpha * x0) / sigma
    outputs = {
        "epsilon": epsilon,
        "sample": x0,
        "v_prediction": alpha * epsilon - sigma * x0,
        FLOW: epsilon - x0,
    }
    return outputs[prediction_type]


def make_stock(prediction_type: str) -> Any:
    if prediction_type == FLOW:
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return DDIMScheduler(**SD_SCHEDULER, prediction_type=prediction_type)


def run(
    steps: int,
    mask: Mask,
    curve: Curve,
    *,
    eta: float,
    prediction_type: str = "epsilon",
    size: int = 24,
) -> tuple[Tensor, Tensor, list[StepRecord], AsynchronousScheduler]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(
        (steps + 1, 2, 4, size, size), generator=generator, dtype=torch.float64
    ).float()
    records: list[StepRecord] = []
    scheduler = AsynchronousScheduler(
        make_stock(prediction_type),
        Method(curve, mask, CONCAVITY),
        eta=eta,
        callback=records.append,
        images=range(2),
    )
    draws = iter(noise[1:])
    scheduler._draw = lambda x, generator: next(draws)  # type: ignore[method-assign]
    scheduler.set_timesteps(steps)
    scheduler.begin((size, size), None)
    x = noise[0]
    for t in scheduler.timesteps:
        assert scheduler.rungs is not None
        level = scheduler.ladder.level(scheduler.rungs)
        output = predict_exactly(
            prediction_type, x, Level(expand_map(level.alpha, x), expand_map(level.sigma, x))
        )
        scheduler.evaluated = True
        x, _ = scheduler.step(output, t, x)
    return noise[0], x, records, scheduler


def solve_exactly(x: Tensor, start: Level, end: Level) -> Tensor:
    """The probability-flow solution from one level to another: quantiles are kept."""
    deviation = [((level.alpha * DEVIATION) ** 2 + level.sigma**2).sqrt() for level in (start, end)]
    return end.alpha * MEAN + deviation[1] / deviation[0] * (x - start.alpha * MEAN)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("make_mask", [NoMask, GlobalMask, Flipping])
def test_without_noise_it_converges_to_the_analytic_answer(
    make_mask: type[Mask], prediction_type: str
) -> None:
    errors = []
    for steps in (40, 160, 640):
        x, final, records, scheduler = run(
            steps, make_mask(), Quadratic(), eta=0.0, prediction_type=prediction_type, size=8
        )
        sigma = expand_map(records[0].sigmas, x)
        alpha = 1 - sigma if prediction_type == FLOW else (1 - sigma**2).sqrt()
        answer = solve_exactly(x, Level(alpha, sigma), scheduler.ladder.clean)
        errors.append(float((final - answer).abs().max()))
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]
    assert errors[-1] < 0.02


@pytest.mark.parametrize(
    "curve", [Quadratic(), PiecewiseLinear(), Exponential()], ids=lambda curve: curve.label
)
@pytest.mark.parametrize("make_mask", [GlobalMask, Flipping])
def test_with_noise_the_distribution_converges_to_that_of_the_data(
    make_mask: type[Mask], curve: Curve
) -> None:
    errors = []
    for steps in (40, 160, 640):
        _, final, _, _ = run(steps, make_mask(), curve, eta=1.0, size=32)
        assert abs(float(final.mean()) - MEAN) < 4 * DEVIATION / final.numel() ** 0.5
        errors.append(abs(float(final.std()) - DEVIATION))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 0.012


def predict_moments(sigmas: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a flow's pixels after all steps through these levels (N+1,
    ...), float64: every step is linear in x for Gaussian data, and x begins as standard normal
    noise."""
    mean, variance = torch.zeros_like(sigmas[0]), torch.ones_like(sigmas[0])
    for sigma, following in itertools.pairwise(sigmas):
        alpha, alpha_next = 1 - sigma, 1 - following
        gain = alpha * DEVIATION**2 / ((alpha * DEVIATION) ** 2 + sigma**2)
        fresh = eta**2 * following**2 * (1 - (following * alpha / (sigma * alpha_next)) ** 2)
        kept = (following**2 - fresh).sqrt() / sigma
        slope = alpha_next * gain + kept * (1 - alpha * gain)
        mean = slope * (mean - alpha * MEAN) + alpha_next * MEAN
        variance = slope**2 * variance + fresh
    return mean, variance.sqrt()


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("curve", [Quadratic(), PiecewiseLinear()], ids=lambda curve: curve.label)
@pytest.mark.parametrize("make_mask", [GlobalMask, Flipping])
def test_with_noise_a_flow_has_the_distribution_that_its_levels_give(
    make_mask: type[Mask], curve: Curve, eta: float
) -> None:
    """That of the data in the limit, as known without drawing any noise; at few steps already as
    that predicts."""
    errors = []
    for steps in (10, 40, 160):
        few = steps == 10
        _, final, records, _ = run(
            steps, make_mask(), curve, eta=eta, prediction_type=FLOW, size=32 if few else 4
        )
        sigmas = torch.stack([record.sigmas for record in records]).double()
        mean, deviation = predict_moments(torch.cat([sigmas, torch.zeros_like(sigmas[:1])]), eta)
        if few:
            scores = (final - mean[:, None]) / deviation[:, None]
            assert abs(float(scores.mean())) < 4 / scores.numel() ** 0.5
            assert abs(float(scores.std()) - 1) < 4 / (2 * scores.numel()) ** 0.5
        errors.append(float((deviation - DEVIATION).abs().mean() + (mean - MEAN).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 0.05


@pytest.mark.parametrize("prediction_type", ["epsilon", FLOW])
def test_records_tell_what_happened(prediction_type: str) -> None:
    """Where the first evaluation is on the first rung, the first mask moves pixels an update
    later."""
    _, final, records, _ = run(6, Flipping(), Quadratic(), eta=1.0, prediction_type=prediction_type)
    assert [(record.step, record.remaining) for record in records] == [
        (i, 6 - i) for i in range(1, 7)
    ]
    for record, following in itertools.pairwise(records):
        assert torch.equal(record.next_timesteps, following.timesteps)
    assert (records[-1].next_timesteps == 0).all() and torch.equal(records[-1].latents, final)
    apart = [float(record.timesteps.max() - record.timesteps.min()) for record in records]
    assert apart[0] == 0 and max(apart) > 50
    mask_before = [float(record.weights.mean()) for record in records[:2]]
    assert mask_before[0] == 0.5 and 0.4 < mask_before[1] < 0.6
    assert records[1].timesteps.unique().numel() == 1 and records[2].timesteps.unique().numel() > 1


def test_a_network_that_was_not_told_the_timesteps_and_another_batch_are_refused() -> None:
    scheduler = AsynchronousScheduler(
        make_stock("epsilon"), Method(Quadratic(), NoMask(), CONCAVITY), images=range(2)
    )
    scheduler.set_timesteps(4)
    x = torch.zeros(2, 4, 8, 8)
    with pytest.raises(UserError, match="without being told a timestep per pixel"):
        scheduler.step(x, 0, x)
    scheduler.begin((8, 8), None)
    with pytest.raises(UserError, match="without being told a timestep per pixel"):
        scheduler.step(x, 0, x)
    scheduler.evaluated = True
    with pytest.raises(UserError, match="makes 1 images, but 2 prompts"):
        scheduler.step(x[:1], 0, x[:1])
