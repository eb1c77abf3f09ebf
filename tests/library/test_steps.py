from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyndm.errors import UserError
from asyndm.guidance.base import Guided
from asyndm.ladder import Ladder, Level
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.steps import FLOW, PREDICTION_TYPES, Move, Prediction

SHAPE = (2, 4, 6, 5)
GRID = (2, 6, 5)
DIFFUSION = tuple(kind for kind in PREDICTION_TYPES if kind != FLOW)


def draw_normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def make_ladder(scheduler: Any, steps: int = 1000, **arguments: Any) -> Ladder:
    scheduler.set_timesteps(steps, **arguments)
    return Ladder(scheduler)


def to_double(scheduler: DDIMScheduler) -> DDIMScheduler:
    """A copy that computes its steps in float64."""
    double = deepcopy(scheduler)
    double.alphas_cumprod = scheduler.alphas_cumprod.double()
    double.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return double


def make_discrete_ladder(steps: int = 1000, **config: Any) -> Ladder:
    return make_ladder(DDIMScheduler(**{**SD_SCHEDULER, "steps_offset": 0, **config}), steps)


def find_level(ladder: Ladder, rungs: Tensor) -> Level:
    """The levels at places (B, h, w), with room for channels."""
    level = ladder.level(rungs)
    return Level(level.alpha[:, None], level.sigma[:, None])


def fill_level(ladder: Ladder, rung: float) -> Level:
    """One rung for all pixels; the clean end below the last."""
    return (
        ladder.clean
        if rung < 0
        else find_level(ladder, torch.full(GRID, float(rung), dtype=torch.float64))
    )


@pytest.mark.parametrize("prediction_type", DIFFUSION)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"clip_sample": True, "clip_sample_range": 0.7},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
        {"set_alpha_to_one": True, "steps_offset": 0},
    ],
    ids=["plain", "clipped", "thresholded", "clean end at one"],
)
def test_one_level_everywhere_is_the_schedulers_own_step(
    prediction_type: str, eta: float, extra: dict[str, Any]
) -> None:
    """Without noise to the bit. With noise as it is in float64: in float32 the scheduler's own
    small differences of large numbers lose 2e-5 where x₀ is predicted."""
    scheduler = DDIMScheduler(**{**SD_SCHEDULER, **extra, "prediction_type": prediction_type})
    ladder, prediction = make_ladder(scheduler, 10), Prediction.of(scheduler)
    x, output, noise = draw_normal(0), draw_normal(1), draw_normal(2) if eta > 0 else None
    exact = to_double(scheduler)
    for rung, t in zip(range(9, -1, -1), scheduler.timesteps.tolist(), strict=True):
        now, then = fill_level(ladder, rung), fill_level(ladder, rung - 1)
        ours, x0 = Move(now, then, eta, noise, prediction).step(x, Guided(output))
        if eta == 0:
            assert torch.equal(ours, scheduler.step(output, t, x).prev_sample)
        z = None if noise is None else noise.double()
        theirs = exact.step(output.double(), t, x.double(), eta=eta, variance_noise=z)
        assert torch.allclose(ours.double(), theirs.prev_sample, rtol=1e-5, atol=2e-6)
        assert torch.allclose(x0.double(), theirs.pred_original_sample, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ({}, {}),
        ({"shift": 3.0}, {}),
        ({"use_dynamic_shifting": True, "shift_terminal": 0.02}, {"mu": 0.7}),
    ],
    ids=["plain", "shifted", "shifted by size"],
)
def test_one_level_everywhere_is_the_flow_schedulers_own_step_to_the_bit(
    config: dict[str, Any], arguments: dict[str, Any]
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    ladder, prediction = make_ladder(scheduler, 10, **arguments), Prediction(FLOW)
    x = draw_normal(0)
    for rung, t in zip(range(9, -1, -1), scheduler.timesteps, strict=True):
        output = draw_normal(rung)
        now, then = fill_level(ladder, rung), fill_level(ladder, rung - 1)
        ours, x0 = Move(now, then, prediction=prediction).step(x, Guided(output))
        assert torch.equal(x0, x - now.sigma * output)
        x = scheduler.step(output, t, x).prev_sample
        assert torch.equal(ours, x)
    assert torch.allclose(x, x0, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_noise_makes_the_step_a_draw_from_the_posterior(kind: str, eta: float) -> None:
    """Of x' given x and x₀, where x is x' scaled and noised on: conditioning of two Gaussians,
    written out. A smaller η has η² of its variance, and whatever η, x' has the distribution of its
    level."""
    ladder = (
        make_ladder(FlowMatchEulerDiscreteScheduler()) if kind == "flow" else make_discrete_ladder()
    )
    prediction = Prediction(FLOW if kind == "flow" else "epsilon")
    rungs = torch.randint(2, 1000, GRID, generator=torch.Generator().manual_seed(0)).double()
    rungs[0, 0, 0] = 999
    now, then = find_level(ladder, rungs), find_level(ladder, (rungs / 2).floor())
    alpha, sigma, alpha_next, sigma_next = (
        part.double() for part in (now.alpha, now.sigma, then.alpha, then.sigma)
    )
    covariance = alpha / alpha_next * sigma_next**2
    variance = sigma_next**2 - covariance**2 / sigma**2

    x0, epsilon = draw_normal(1).double(), draw_normal(2).double()
    x = (alpha * x0 + sigma * epsilon).float()
    output = (epsilon - x0 if kind == "flow" else epsilon).float()

    def take(noise: Tensor) -> Tensor:
        return Move(now, then, eta, noise, prediction).step(x, Guided(output))[0].double()

    mean, deviation = (
        take(torch.zeros(SHAPE)),
        take(torch.ones(SHAPE)) - take(torch.zeros(SHAPE)),
    )
    assert torch.allclose(deviation, eta * variance.sqrt().expand(SHAPE), rtol=1e-5, atol=1e-6)
    kept = (mean - alpha_next * x0) / epsilon
    assert torch.allclose(
        kept**2 + deviation**2, (sigma_next**2).expand(SHAPE), rtol=1e-3, atol=1e-5
    )
    if eta == 1:
        posterior = alpha_next * x0 + covariance / sigma**2 * (x - alpha * x0)
        assert torch.allclose(mean, posterior, rtol=1e-5, atol=5e-6)


LADDERS = {
    "discrete": make_discrete_ladder(),
    "zero terminal SNR": make_discrete_ladder(rescale_betas_zero_snr=True),
    FLOW: make_ladder(FlowMatchEulerDiscreteScheduler()),
}


@settings(max_examples=60)
@given(
    prediction=st.builds(
        Prediction,
        st.sampled_from(PREDICTION_TYPES),
        st.sampled_from([None, 1.0]),
        st.sampled_from([None, (0.9, 2.0)]),
    ),
    eta=st.floats(0, 1),
    zero_snr=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_pixel_whose_level_stays_does_not_change(
    prediction: Prediction, eta: float, zero_snr: bool, seed: int
) -> None:
    name = "zero terminal SNR" if zero_snr else "discrete"
    ladder = LADDERS[FLOW if prediction.prediction_type == FLOW else name]
    generator = torch.Generator().manual_seed(seed)
    rungs = torch.randint(100, 1000, GRID, generator=generator).double()
    rungs[0, 0, 0] = 999
    stays = torch.rand(rungs.shape, generator=generator) < 0.5
    following_rungs = torch.where(stays, rungs, rungs - 100)
    x = draw_normal(1)
    now, then = find_level(ladder, rungs), find_level(ladder, following_rungs)
    move = Move(now, then, eta, draw_normal(3), prediction)
    following, _ = move.step(x, Guided(draw_normal(2)))
    kept = stays[:, None].expand_as(x)
    assert torch.equal(following[kept], x[kept])
    assert torch.isfinite(following).all()
    assert (following[~kept] != x[~kept]).float().mean() > 0.99


@pytest.mark.parametrize("name", ["discrete", FLOW])
def test_a_pixel_does_not_depend_on_its_neighbours_levels(name: str) -> None:
    ladder, prediction = LADDERS[name], Prediction(FLOW if name == FLOW else "epsilon")
    x, output, z = draw_normal(0), draw_normal(1), draw_normal(2)
    rungs = torch.randint(200, 1000, GRID, generator=torch.Generator().manual_seed(4)).double()

    def following(rungs: Tensor) -> Tensor:
        now, then = find_level(ladder, rungs), find_level(ladder, rungs - 150)
        return Move(now, then, 1.0, z, prediction).step(x, Guided(output))[0]

    mixed = following(rungs)
    for b, i, j in [(0, 0, 0), (1, 3, 2), (1, 5, 4)]:
        alone = following(torch.full_like(rungs, float(rungs[b, i, j])))
        assert torch.equal(mixed[b, :, i, j], alone[b, :, i, j])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_zero_terminal_snr_is_safe(prediction_type: str) -> None:
    ladder = LADDERS[FLOW if prediction_type == FLOW else "zero terminal SNR"]
    now, then = fill_level(ladder, 999), fill_level(ladder, 900)
    assert (now.alpha == 0).all() and (now.sigma == 1).all()
    x, output = draw_normal(0), draw_normal(1)
    move = Move(now, then, 1.0, draw_normal(2), Prediction(prediction_type))
    following, x0 = move.step(x, Guided(output))
    assert torch.isfinite(following).all()
    expected = {
        "epsilon": torch.zeros(SHAPE),
        "v_prediction": -output,
        "sample": output,
        FLOW: x - output,
    }
    assert torch.equal(x0, expected[prediction_type])


def test_an_unknown_prediction_type_and_missing_noise_are_refused() -> None:
    with pytest.raises(UserError, match="prediction_type 'flow'"):
        Prediction("flow")
    now, then = fill_level(LADDERS["discrete"], 500), fill_level(LADDERS["discrete"], 400)
    with pytest.raises(UserError, match="noise is needed"):
        Move(now, then, eta=0.5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_an_output_is_found_from_the_x0_that_it_predicts(prediction_type: str) -> None:
    ladder = LADDERS[FLOW if prediction_type == FLOW else "discrete"]
    prediction = Prediction(prediction_type)
    level = find_level(ladder, torch.linspace(300, 999, 60, dtype=torch.float64).view(GRID))
    x, output = draw_normal(0), draw_normal(1)
    found = prediction.invert(x, prediction(x, output, level)[0], level)
    assert torch.allclose(found, output, rtol=1e-4, atol=1e-4)
    clean = fill_level(ladder, 0)._replace(sigma=torch.zeros(()))
    assert torch.isfinite(prediction.invert(x, output, clean)).all()


@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_noise_may_be_predicted_from_another_output(prediction_type: str, eta: float) -> None:
    """x₀ of the one, ε of the other; the same one twice is the step of one."""
    ladder = LADDERS[FLOW if prediction_type == FLOW else "discrete"]
    prediction = Prediction(prediction_type, clip_range=1.0)
    rungs = torch.randint(200, 1000, GRID, generator=torch.Generator().manual_seed(4)).double()
    now, then = find_level(ladder, rungs), find_level(ladder, rungs - 150)
    x, output, other = draw_normal(0), draw_normal(1), draw_normal(2)
    move = Move(now, then, eta, draw_normal(3), prediction)
    ours, x0 = move.step(x, Guided(output, other))
    assert torch.equal(x0, prediction(x, output, now)[0])
    assert torch.equal(ours, move.apply(x, x0, prediction(x, other, now)[1]))
    same, _ = move.step(x, Guided(output, output))
    if prediction_type != FLOW:  # whose step without noise is not by way of x₀
        assert torch.equal(same, move.step(x, Guided(output))[0])
