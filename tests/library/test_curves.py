from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.algorithm import Schedule
from asyndm.curves import Curve, Exponential, Horizon, Linear, PiecewiseLinear, Quadratic
from asyndm.errors import UserError
from asyndm.masks import Scene
from tests.trajectory import trajectory

CONCAVE = (Quadratic, PiecewiseLinear, Exponential)
fractions = st.floats(0, 1)
horizons = st.builds(Horizon, st.integers(1, 60), st.sampled_from([250, 1000]), st.sampled_from([0, 1]))


@settings(max_examples=150)
@given(
    kind=st.sampled_from(CONCAVE),
    horizon=horizons,
    concavity=st.lists(fractions, min_size=1, max_size=3),
    grey=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_proposition_1_whatever_the_mask_does_every_pixel_arrives(
    kind: type[Curve], horizon: Horizon, concavity: list[float], grey: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scene = Scene(torch.tensor([concavity], dtype=torch.float64), (4, 4))
    schedule = Schedule(kind(), horizon, scene)
    t = torch.full((1, 4, 4), horizon.t_start, dtype=torch.float64)
    for remaining in range(horizon.num_inference_steps, -1, -1):
        weights = torch.rand((1, len(concavity), 4, 4), generator=generator, dtype=torch.float64)
        before, t = t, schedule(t, remaining, weights if grey else weights.round())
        assert (t <= before + 1e-9).all()
        if remaining == 1:
            assert torch.allclose(t, torch.full_like(t, horizon.t_end), rtol=0, atol=1e-9)
        if remaining > 1:
            assert (t >= horizon.t_end).all()
    assert (t == 0).all()


@given(kind=st.sampled_from(CONCAVE), horizon=horizons)
def test_no_concavity_is_the_straight_line(kind: type[Curve], horizon: Horizon) -> None:
    assert torch.allclose(trajectory(kind(0.0), horizon), trajectory(Linear(), horizon), rtol=0, atol=1e-8)


@given(kind=st.sampled_from(CONCAVE), horizon=horizons, omega=fractions)
def test_curves_keep_a_pixel_noisier_than_the_line_and_fall_faster_and_faster(
    kind: type[Curve], horizon: Horizon, omega: float
) -> None:
    levels = trajectory(kind(omega), horizon)
    assert (levels >= trajectory(Linear(), horizon) - 1e-8).all()
    assert (levels[:-1].diff().diff() <= 1e-8).all()


@pytest.mark.parametrize("kind", CONCAVE)
@given(horizon=horizons, omega=fractions)
def test_a_tensor_of_concavities_is_each_ones_own_curve(
    kind: type[Curve], horizon: Horizon, omega: float
) -> None:
    t = torch.tensor([horizon.t_start] * 2, dtype=torch.float64)
    n = horizon.num_inference_steps
    both = kind(0.3).advance(t, n, horizon, torch.tensor([omega, 0.3]))
    expected = [float(kind(w).advance(t[0], n, horizon)) for w in (float(torch.tensor(omega)), 0.3)]
    assert both.tolist() == pytest.approx(expected, abs=1e-4)


def test_closed_forms_are_those_of_the_paper() -> None:
    """The parabola and the exponential through (0, t) and (r, t_end), evaluated at x = 1."""
    horizon, t, r, omega = Horizon(20), 700.0, 11, 0.6
    second_difference = -2 * omega * 1000 / 20**2
    parabola = t + (1 - t) / r - second_difference / 2 * (r - 1)
    assert float(Quadratic(omega).advance(torch.tensor(t), r, horizon)) == pytest.approx(parabola, abs=1e-9)

    b = -(1 - omega) * 1000 / 20
    scale = (1 - t - b * r) / (math.exp(r / 20) - 1)
    exponential = t + b + scale * (math.exp(1 / 20) - 1)
    assert float(Exponential(omega).advance(torch.tensor(t), r, horizon)) == pytest.approx(
        exponential, abs=1e-9
    )


def test_dm_ladder_is_the_schedulers_own_where_steps_divide_the_timesteps() -> None:
    from diffusers import DDIMScheduler

    for steps in (1, 2, 5, 8, 10, 20, 25, 50, 100, 1000):
        scheduler = DDIMScheduler(steps_offset=1)
        scheduler.set_timesteps(steps)
        assert torch.equal(trajectory(Linear(), Horizon(steps))[:-1].round().long(), scheduler.timesteps)


@pytest.mark.parametrize("concavity", [-0.1, 1.01, math.nan, "0.5", True, None])
def test_concavity_outside_the_unit_interval_is_refused(concavity: object) -> None:
    with pytest.raises(UserError, match=r"concavity must be a number in \[0, 1\]"):
        Quadratic(concavity)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True])
def test_steps_outside_the_training_range_are_refused(steps: object) -> None:
    with pytest.raises(UserError, match="num_inference_steps must be a whole number from 1 to 1000"):
        Horizon(steps)  # type: ignore[arg-type]


def test_updates_beyond_the_horizon_are_refused() -> None:
    with pytest.raises(UserError, match="remaining"):
        Linear().advance(torch.tensor(5.0), 11, Horizon(10))
