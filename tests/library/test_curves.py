from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.curves import Curve, Exponential, Linear, PiecewiseLinear, Quadratic
from asyndm.errors import UserError
from asyndm.ladder import Ladder
from asyndm.masks import NoMask
from asyndm.method import Method
from asyndm.scene import Scene
from tests.trajectory import record_trajectory

CONCAVE = (Quadratic, PiecewiseLinear, Exponential)
ROUNDING = 1e-12
"""Of a place in rungs, at most 60 here."""
fractions = st.floats(0, 1)
lengths = st.integers(1, 60)


class Wobbly(Linear):
    """A curve made from another, and not it."""


def test_a_curve_says_what_it_is() -> None:
    kinds = (Linear, Quadratic, PiecewiseLinear, Exponential)
    labels = ["linear", "quadratic", "piecewise_linear", "exponential"]
    assert [kind.label for kind in kinds] == labels
    assert [kind().bends(0.5) for kind in kinds] == [False, True, True, True]
    assert not any(kind().bends(0.0) for kind in kinds)
    assert Wobbly.label == "wobbly" and Wobbly().bends(0.5)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(CONCAVE),
    steps=lengths,
    ahead=st.sampled_from([0, 1]),
    concavity=st.lists(fractions, min_size=1, max_size=3),
    grey=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_proposition_1_whatever_the_mask_does_every_pixel_arrives(
    kind: type[Curve], steps: int, ahead: int, concavity: list[float], grey: bool, seed: int
) -> None:
    """From above the first rung (leading) or on it (any other ladder)."""
    generator = torch.Generator().manual_seed(seed)
    scene = Scene(torch.tensor([concavity], dtype=torch.float64), (4, 4))
    method = Method(kind(), NoMask(), scene.concavity)
    updates = steps - 1 + ahead
    u = torch.full((1, 4, 4), float(updates), dtype=torch.float64)
    for remaining in range(updates, 0, -1):
        weights = torch.rand((1, len(concavity), 4, 4), generator=generator, dtype=torch.float64)
        before, u = u, method.move(u, remaining, steps, weights if grey else weights.round(), scene)
        assert (u <= before + ROUNDING).all()
        if remaining > 1:
            assert (u >= 0).all()
    assert u.abs().max() <= ROUNDING


@given(kind=st.sampled_from(CONCAVE), steps=lengths)
def test_no_concavity_is_the_straight_line(kind: type[Curve], steps: int) -> None:
    assert torch.allclose(
        record_trajectory(kind(0.0), steps),
        record_trajectory(Linear(), steps),
        rtol=0,
        atol=ROUNDING,
    )


@given(kind=st.sampled_from(CONCAVE), steps=lengths, omega=fractions)
def test_curves_keep_a_pixel_noisier_than_the_line_and_fall_faster_and_faster(
    kind: type[Curve], steps: int, omega: float
) -> None:
    places = record_trajectory(kind(omega), steps)
    assert (places >= record_trajectory(Linear(), steps) - ROUNDING).all()
    assert (places.diff().diff() <= ROUNDING).all()


@pytest.mark.parametrize("kind", CONCAVE)
@given(steps=lengths, omega=fractions)
def test_a_tensor_of_concavities_is_each_ones_own_curve(
    kind: type[Curve], steps: int, omega: float
) -> None:
    u = torch.tensor([float(steps)] * 2, dtype=torch.float64)
    concavity = torch.tensor([omega, 0.3])
    both = kind(0.3).advance(u, steps, steps, concavity)
    expected = [float(kind(w).advance(u[0], steps, steps)) for w in concavity.tolist()]
    assert both.tolist() == pytest.approx(expected, abs=ROUNDING)


def test_closed_forms_are_those_of_the_paper() -> None:
    """The parabola and the exponential through (0, u) and (r, 0), evaluated at x = 1."""
    u, r, N, omega = 14.0, 11, 20, 0.6
    second_difference = -2 * omega / N
    parabola = u - u / r - second_difference / 2 * (r - 1)
    ours = float(Quadratic(omega).advance(torch.tensor(u), r, N))
    assert ours == pytest.approx(parabola, abs=ROUNDING)

    b = omega - 1
    scale = (-u - b * r) / (math.exp(r / N) - 1)
    exponential = u + b + scale * (math.exp(1 / N) - 1)
    ours = float(Exponential(omega).advance(torch.tensor(u), r, N))
    assert ours == pytest.approx(exponential, abs=ROUNDING)


def test_the_line_is_the_schedulers_own_ladder() -> None:
    for steps in (1, 2, 5, 8, 10, 20, 25, 30, 50, 60, 100, 999, 1000):
        scheduler = DDIMScheduler(steps_offset=1)
        scheduler.set_timesteps(steps)
        places = record_trajectory(Linear(), steps)
        assert torch.equal(places, torch.arange(steps - 1, -1, -1).double())
        assert torch.equal(
            Ladder(scheduler, ahead=True).timestep(places).long(), scheduler.timesteps
        )


@pytest.mark.parametrize("concavity", [-0.1, 1.01, math.nan, "0.5", True, None])
def test_concavity_outside_the_unit_interval_is_refused(concavity: object) -> None:
    with pytest.raises(UserError, match=r"concavity must be a number in \[0, 1\]"):
        Quadratic(concavity)  # type: ignore[arg-type]


@pytest.mark.parametrize("remaining", [0, -1, 11])
def test_updates_beyond_the_ladder_are_refused(remaining: int) -> None:
    with pytest.raises(UserError, match="remaining must be 1 to 10"):
        Linear().advance(torch.tensor(5.0), remaining, 10)
