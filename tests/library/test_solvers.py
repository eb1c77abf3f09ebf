"""Solvers against their formulas written out, pixel by pixel, and what they say of themselves."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from asyndm.errors import UserError
from asyndm.guidance.base import Guided
from asyndm.ladder import Level
from asyndm.solvers import AB2, DDIM, DPMSolverPlusPlus2M, Euler, Heun, Solver, forget
from asyndm.steps import FLOW, Move, Prediction
from tests.library.driving import SHAPE, draw_normal

STOCK_2M = DPMSolverPlusPlus2M(max_ratio=None)
SOLVERS = (DDIM(), DPMSolverPlusPlus2M(), Euler(), AB2(), Heun())
MULTISTEP = (DPMSolverPlusPlus2M(), STOCK_2M, AB2())
PARKED = torch.zeros(1, 1, 6, 5, dtype=torch.bool)
PARKED[..., :3] = True


def find_place(log_ratio: Tensor | float, flow: bool) -> Level:
    """A level map by its λ: of variance-preserving diffusion, or of a flow (α = 1 - σ)."""
    value = torch.as_tensor(log_ratio).expand(1, 1, 6, 5).double()
    if flow:
        return Level(value.sigmoid().float(), (-value).sigmoid().float())
    return Level((2 * value).sigmoid().sqrt().float(), (-2 * value).sigmoid().sqrt().float())


def make_moves(solver: Solver, *places: Tensor | float, eta: float = 0.0) -> list[Move]:
    """Steps through these λ, of the outputs that the solver is for."""
    flow = bool(solver.flow)
    levels = [find_place(place, flow) for place in places]
    prediction = Prediction(FLOW if flow else "epsilon")
    return [
        Move(now, then, eta, draw_normal(50 + i), prediction)
        for i, (now, then) in enumerate(zip(levels[:-1], levels[1:], strict=True))
    ]


def take(
    solver: Solver, moves: list[Move], history: dict[str, Tensor] | None = None
) -> list[Tensor]:
    """x before and after each step, under outputs that no network made."""
    history, states = {} if history is None else history, [draw_normal(0)]
    for i, move in enumerate(moves):
        guided = Guided(draw_normal(10 + i))
        states.append(solver.step(states[-1], guided, move, history)[0])
    return states


@pytest.mark.parametrize("solver", MULTISTEP, ids=lambda solver: solver.label)
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_parked_pixel_stays_and_keeps_its_history(solver: Solver, eta: float) -> None:
    """So that after it has moved on it is where it would be, had it never been parked."""
    eta = eta if solver.draws else 0.0
    waits = torch.where(PARKED, -0.8, -0.5)
    whole = make_moves(solver, -1.2, -0.8, waits, torch.where(PARKED, -0.1, 0.2), eta=eta)
    parked = PARKED.expand(SHAPE)
    history: dict[str, Tensor] = {}
    states = take(solver, whole, history)
    assert torch.equal(states[2][parked], states[1][parked])
    assert (states[2][~parked] != states[1][~parked]).all()

    # Its three evaluations; what was evaluated while it was parked is not remembered.
    alone: dict[str, Tensor] = {}
    x, _ = solver.step(states[0], Guided(draw_normal(10)), whole[0], alone)
    ours, _ = solver.step(x, Guided(draw_normal(12)), whole[2], alone)
    assert torch.equal(ours[parked], states[3][parked])
    assert torch.equal(history["place"][PARKED], alone["place"][PARKED])


@pytest.mark.parametrize("solver", MULTISTEP, ids=lambda solver: solver.label)
def test_where_x_was_moved_the_next_step_is_of_first_order_and_of_second_elsewhere(
    solver: Solver,
) -> None:
    """A pixel is moved as a whole, whichever of its channels was."""
    first, second = make_moves(solver, -1.0, -0.4, 0.3)
    moved = torch.zeros(SHAPE, dtype=torch.bool)
    moved[:, 2] = PARKED[:, 0]
    kept: dict[str, Tensor] = {}
    x, _ = solver.step(draw_normal(0), Guided(draw_normal(10)), first, kept)
    some, none = dict(kept), dict(kept)
    forget(some, moved)
    forget(none, torch.ones_like(moved))
    assert not none
    made, second_order, first_order = (
        solver.step(x, Guided(draw_normal(11)), second, history)[0]
        for history in (some, kept, none)
    )
    assert torch.equal(made, torch.where(PARKED, first_order, second_order))
    assert (first_order - second_order).abs().amin((0, 1)).min() > 0
    other = {"slope": x}
    forget(other, moved)
    assert not other


@pytest.mark.parametrize("solver", MULTISTEP, ids=lambda solver: solver.label)
def test_a_pixel_that_has_not_moved_yet_has_no_history(solver: Solver) -> None:
    """Its first step is of first order, whatever others have done."""
    moves = make_moves(solver, -1.2, torch.where(PARKED, -1.2, -0.8), torch.full((), -0.3))
    states, parked = take(solver, moves), PARKED.expand(SHAPE)
    first, _ = solver.step(states[1], Guided(draw_normal(11)), moves[1], {})
    assert torch.equal(states[1][parked], states[0][parked])
    assert torch.equal(states[2][parked], first[parked])
    assert (states[2] - first)[~parked].abs().mean() > 0.01


@pytest.mark.parametrize("solver", MULTISTEP, ids=lambda solver: solver.label)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_history_it_is_ddim(solver: Solver, eta: float) -> None:
    """At first, and again once its history was cleared."""
    eta = eta if solver.draws else 0.0
    history: dict[str, Tensor] = {}
    moves = make_moves(solver, -1.2, -0.8, -0.5, eta=eta)
    x, guided = draw_normal(0), [Guided(draw_normal(10 + i)) for i in range(2)]
    first, x0 = solver.step(x, guided[0], moves[0], history)
    theirs, theirs_x0 = DDIM().step(x, guided[0], moves[0], {})
    assert torch.allclose(first, theirs, rtol=0, atol=5e-6) and torch.equal(x0, theirs_x0)
    theirs, _ = DDIM().step(first, guided[1], moves[1], {})
    second, _ = solver.step(first, guided[1], moves[1], dict(history))
    assert (second - theirs).abs().mean() > 0.01
    history.clear()
    again, _ = solver.step(first, guided[1], moves[1], history)
    assert torch.allclose(again, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("max_ratio", [None, 2.0, 0.5, 0.0])
@pytest.mark.parametrize("step", [0.2, 0.5, 2.0])
def test_2m_is_its_formula(eta: float, max_ratio: float | None, step: float) -> None:
    """With x₀ clipped before it is led on, in float64."""
    solver = DPMSolverPlusPlus2M(max_ratio)
    moves = [
        Move(move.level_t, move.level_s, eta, move.noise, Prediction("sample", clip_range=1.5))
        for move in make_moves(solver, -1.0, -0.6, -0.6 + step)
    ]
    _, x, ours = take(solver, moves)
    x0_last, x0 = (draw_normal(10 + i).double().clamp(-1.5, 1.5) for i in range(2))
    ratio = step / 0.4
    c = (ratio if max_ratio is None else min(ratio, max_ratio)) / 2
    alpha, sigma = (part.double() for part in moves[1].level_t)
    alpha_s, sigma_s = (part.double() for part in moves[1].level_s)
    clean = x0 + c * (x0 - x0_last)
    variance = eta**2 * sigma_s**2 * (1 - math.exp(-2 * step))
    kept = (sigma_s**2 - variance).sqrt() * (x.double() - alpha * clean) / sigma
    noise = variance.sqrt() * draw_normal(51).double()
    assert torch.allclose(ours.double(), alpha_s * clean + kept + noise, rtol=1e-5, atol=1e-5)


def test_no_limit_makes_a_second_order_step_to_the_clean_end_or_from_pure_noise() -> None:
    """Where λ is infinite; and the step from pure noise leaves no history to the next."""
    solver, prediction = DPMSolverPlusPlus2M(), Prediction("v_prediction")
    noise = Level(torch.zeros(1, 1, 6, 5), torch.ones(1, 1, 6, 5))
    clean = Level(noise.sigma, noise.alpha)
    levels = [noise, find_place(-1.0, False), find_place(0.0, False), clean]
    moves = [
        Move(a, b, prediction=prediction) for a, b in zip(levels[:-1], levels[1:], strict=True)
    ]
    states = take(solver, moves)
    for i, move in enumerate(moves):
        first, x0 = DDIM().step(states[i], Guided(draw_normal(10 + i)), move, {})
        assert torch.allclose(states[i + 1], first, rtol=0, atol=1e-5)
    assert torch.equal(states[-1], x0)


def test_2m_leads_both_predictions_of_cfg_plus_plus_on() -> None:
    """Each from its own last one."""
    moves = make_moves(STOCK_2M, -1.0, -0.6, -0.3)
    history: dict[str, Tensor] = {}
    x, guided = draw_normal(0), [Guided(draw_normal(10 + i), draw_normal(20 + i)) for i in range(2)]
    x, _ = STOCK_2M.step(x, guided[0], moves[0], history)
    first, _ = moves[0].step(draw_normal(0), guided[0])
    assert torch.allclose(x, first, rtol=0, atol=5e-6)
    x0_last, u_last = (moves[0].predict(draw_normal(0), draw_normal(seed))[0] for seed in (10, 20))
    x0, u = (moves[1].predict(x, draw_normal(seed))[0] for seed in (11, 21))
    clean, other = x0 + 0.375 * (x0 - x0_last), u + 0.375 * (u - u_last)
    (alpha, sigma), (alpha_s, sigma_s) = moves[1].level_t, moves[1].level_s
    expected = alpha_s * clean + sigma_s * (x - alpha * other) / sigma
    ours, _ = STOCK_2M.step(x, guided[1], moves[1], history)
    assert torch.allclose(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_every_solver_leaves_a_parked_pixel_alone(solver: Solver) -> None:
    move = make_moves(solver, -1.0, torch.where(PARKED, -1.0, -0.5))[0]
    x, guided = draw_normal(0), Guided(draw_normal(1), draw_normal(2))
    x_s, _ = solver.step(x, guided, move, {}, lambda there: Guided(there, draw_normal(3)))
    parked = PARKED.expand(SHAPE)
    assert torch.equal(x_s[parked], x[parked]) and (x_s[~parked] != x[~parked]).all()


def test_names_and_labels() -> None:
    assert [solver.name for solver in SOLVERS] == ["ddim", "dpmpp_2m", "euler", "ab2", "heun"]
    assert [solver.label for solver in SOLVERS] == [solver.name for solver in SOLVERS]
    assert STOCK_2M.label == "dpmpp_2m max_ratio=null"
    assert DPMSolverPlusPlus2M(1.5).label == "dpmpp_2m max_ratio=1.5"
    assert [solver.evaluations for solver in SOLVERS] == [1, 1, 1, 1, 2]
    assert [solver.multistep for solver in SOLVERS] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("solver", "flow", "remedy"),
    [
        (Euler(), False, "solver=euler is for flow matching.*choose solver=ddim with eta=0"),
        (AB2(), False, "solver=ab2 is for flow matching.*choose solver=dpmpp_2m"),
        (Heun(), False, "solver=heun is for flow matching.*choose solver=dpmpp_2m"),
        (DPMSolverPlusPlus2M(), True, "solver=dpmpp_2m is for diffusion,.*solver=ab2"),
    ],
)
def test_a_model_of_the_other_kind_is_refused(solver: Solver, flow: bool, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        solver.check(flow)
    solver.check(not flow)


def test_noise_is_refused_where_none_is_drawn() -> None:
    for solver in (Euler(), AB2(), Heun()):
        with pytest.raises(UserError, match=f"solver={solver.name} draws no noise.*set eta=0"):
            solver.check(True, 0.5)
    for flow in (False, True):
        DDIM().check(flow, 1.0)


@pytest.mark.parametrize("ratio", [-1, float("nan"), True, "two"])
def test_a_limit_is_a_number(ratio: Any) -> None:
    with pytest.raises(UserError, match="solver.max_ratio=.*at least 0, or null"):
        DPMSolverPlusPlus2M(ratio)


def test_solvers_are_read_without_torch() -> None:
    code = "import sys, asyndm.solvers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
