"""Solvers against the exact flow, and the exact distribution, of data that are known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from asyndm.course import expand_level
from asyndm.curves import Quadratic
from asyndm.guidance.base import Guided
from asyndm.ladder import Level
from asyndm.masks import Mask
from asyndm.method import Method
from asyndm.scene import Scene
from asyndm.scheduler import AsynchronousScheduler
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.solvers import (
    AB2,
    DDIM,
    DPMSolverPlusPlus2M,
    Euler,
    Heun,
    Solver,
    compute_log_ratio,
)
from asyndm.steps import FLOW, Move, Prediction
from tests.docs.pages import ROOT
from tests.library.driving import TABLE, drive, make_network

STOCK_2M = DPMSolverPlusPlus2M(max_ratio=None)
PIXELS = 6
PLACES = torch.arange(PIXELS, dtype=torch.float64)
COVARIANCE = 0.5 * torch.exp(-(PLACES[:, None] - PLACES).abs() / 2)
AHEAD = torch.where(PLACES % 2 == 0, 0.3, -0.3)


def predict_gaussian(x: Tensor, level: Level) -> Tensor:
    """x₀ of an exact network: each pixel depends on all others, at whatever levels they are."""
    alpha, sigma = (part.flatten() for part in level)
    noisy = alpha[:, None] * COVARIANCE * alpha + (sigma**2).diag()
    x0: Tensor = 0.7 + COVARIANCE * alpha @ torch.linalg.solve(noisy, x.flatten() - 0.7 * alpha)
    return x0.view_as(x)


def find_position(time: float) -> Tensor:
    """How far each pixel is, from 0 to 1: half of them are ahead, half behind; in the middle they
    change their curves, a kink."""
    u = min(time, 1 - time)
    return (time + AHEAD * u * (1 + u - u**2)).view(1, 1, 1, -1)


def find_speed(time: float, first: bool) -> Tensor:
    """The derivative of that, in the first half or in the second."""
    u = time if first else 1 - time
    rise = AHEAD * (1 + 2 * u - 3 * u**2)
    return (1 + (rise if first else -rise)).view(1, 1, 1, -1)


def find_level(time: float, flow: bool) -> Level:
    """σ from 0.98 to 0.02, or λ from -2.7 to 3.2; float64."""
    if flow:
        sigma = 0.98 - 0.96 * find_position(time)
        return Level(1 - sigma, sigma)
    log_ratio = -2.7 + 5.9 * find_position(time)
    return Level((2 * log_ratio).sigmoid().sqrt(), (-2 * log_ratio).sigmoid().sqrt())


def find_slope(x: Tensor, time: float, first: bool, flow: bool) -> Tensor:
    """Of the exact flow: dx = v dσ, or dx = (α x₀ - α² x) dλ."""
    alpha, sigma = level = find_level(time, flow)
    x0, speed = predict_gaussian(x, level), find_speed(time, first)
    slope = (x - x0) / sigma * -0.96 if flow else (alpha * x0 - alpha**2 * x) * 5.9
    return slope * speed


def solve(x: Tensor, flow: bool, steps: int = 256) -> Tensor:
    """Of the exact flow, by Runge and Kutta's method of fourth order."""
    h = 1 / steps
    for i in range(steps):
        t, first = i * h, i < steps // 2
        k1 = find_slope(x, t, first, flow)
        k2 = find_slope(x + h / 2 * k1, t + h / 2, first, flow)
        k3 = find_slope(x + h / 2 * k2, t + h / 2, first, flow)
        k4 = find_slope(x + h * k3, t + h, first, flow)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def measure_errors(solver: Solver, flow: bool, numbers: tuple[int, ...]) -> list[float]:
    """RMS at the end, for each number of steps."""
    x = torch.randn(1, 1, 1, PIXELS, generator=torch.Generator().manual_seed(0)).double()

    def network(x: Tensor, level: Level) -> Tensor:
        x0 = predict_gaussian(x, level)
        return (x - x0) / level.sigma if flow else x0

    prediction, answer = Prediction(FLOW if flow else "sample"), solve(x, flow)
    errors = []
    for steps in numbers:
        levels = [find_level(i / steps, flow) for i in range(steps + 1)]
        ours = drive(solver, x, levels, network, prediction=prediction)
        errors.append(float((ours - answer).square().mean().sqrt()))
    return errors


@pytest.mark.parametrize(
    ("solver", "flow", "order"),
    [
        (DDIM(), False, 1),
        (DPMSolverPlusPlus2M(), False, 2),
        (STOCK_2M, False, 2),
        (Euler(), True, 1),
        (AB2(), True, 2),
        (Heun(), True, 2),
    ],
    ids=lambda value: value.label if isinstance(value, Solver) else str(value),
)
def test_its_order_survives_pixels_that_change_their_curves(
    solver: Solver, flow: bool, order: int
) -> None:
    coarse, fine = measure_errors(solver, flow, (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_noise_2m_comes_nearer_to_the_data_than_ddim(eta: float) -> None:
    """Pixels that are N(0.7, 0.4²), each at one of two levels."""
    shape = (4, 4, 64, 64)
    generator = torch.Generator().manual_seed(0)
    behind = torch.randint(0, 2, (4, 1, 64, 64), generator=generator).double()
    x = torch.randn(shape, generator=generator)
    ends = [x, x]
    histories: list[dict[str, Tensor]] = [{}, {}]
    places = [-3.5 + 7 * i / 12 - 0.8 * behind * math.sin(math.pi * i / 12) for i in range(13)]
    levels = [
        Level((2 * p).sigmoid().sqrt().float(), (-2 * p).sigmoid().sqrt().float()) for p in places
    ]
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        noise = torch.randn(shape, generator=generator)
        move = Move(now, then, eta, noise, Prediction("sample"))
        for k, solver in enumerate((DDIM(), DPMSolverPlusPlus2M())):
            gain = now.alpha * 0.4**2 / ((now.alpha * 0.4) ** 2 + now.sigma**2)
            guided = Guided(0.7 + gain * (ends[k] - now.alpha * 0.7))
            ends[k], _ = solver.step(ends[k], guided, move, histories[k])
    ddim, second = (abs(float(end.std()) - 0.4) for end in ends)
    assert second < ddim / 3


class Flipping(Mask):
    """Every pixel joins or leaves the subject at random, at every step."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        return torch.randint(0, 2, weights.shape, generator=self.generator).double()


def measure_error(stock: Any, solver: Solver, steps: int) -> float:
    """RMS of a whole run from the exact flow, of pixels that flip between line and curve."""
    method = Method(Quadratic(0.5), Flipping(), torch.full((2, 1), 0.5, dtype=torch.float64))
    scheduler = AsynchronousScheduler(stock, method, solver=solver, eta=0.0, images=range(2))
    scheduler.set_timesteps(steps)
    scheduler.begin((12, 12), None)
    x = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    network, assumed = make_network("epsilon"), x.double()
    for i, t in enumerate(scheduler.timesteps):
        assert scheduler.rungs is not None
        level = expand_level(scheduler.ladder.level(scheduler.rungs), x)
        if i == 0:
            start = compute_log_ratio(level)
        scheduler.evaluated = True
        x, _ = scheduler.step(network(x, level), t, x)
    places = [start + (8 - start) * i / 600 for i in range(601)]
    levels = [Level((2 * p).sigmoid().sqrt(), (-2 * p).sigmoid().sqrt()) for p in places]
    answer = drive(STOCK_2M, assumed, levels, network)
    return float((x - answer).square().mean().sqrt())


SPACINGS: tuple[Callable[[], Any], ...] = (
    lambda: DDIMScheduler(**SD_SCHEDULER),
    lambda: DDIMScheduler(**{**SD_SCHEDULER, "timestep_spacing": "trailing"}),
    lambda: DPMSolverMultistepScheduler(**TABLE, use_karras_sigmas=True),
    lambda: DPMSolverMultistepScheduler(**TABLE, use_exponential_sigmas=True),
)
ROW = re.compile(r"^\|.*" + r"\| (0\.\d+) " * 3 + r"\|$", re.MULTILINE)


@pytest.mark.parametrize("row", range(len(SPACINGS)))
def test_the_errors_on_the_page_of_solvers(row: int) -> None:
    """Of whole runs of the scheduler, in the rows of its table."""
    rows = ROW.findall((ROOT / "docs" / "solver.md").read_text())
    assert len(rows) == len(SPACINGS)
    for said, solver in zip(rows[row], (DDIM(), STOCK_2M, DPMSolverPlusPlus2M()), strict=True):
        assert measure_error(SPACINGS[row](), solver, 20) == pytest.approx(float(said), rel=0.1)


def test_twenty_steps_of_2m_are_as_good_as_fifty_of_ddim() -> None:
    stock = SPACINGS[0]()
    fifty = measure_error(stock, DDIM(), 50)
    assert fifty == pytest.approx(0.026, rel=0.1)
    assert measure_error(stock, DPMSolverPlusPlus2M(), 20) < fifty


def test_ab2_is_better_than_heun_at_as_many_evaluations() -> None:
    (heun,) = measure_errors(Heun(), True, (16,))
    (ab2,) = measure_errors(AB2(), True, (32,))
    assert ab2 < 0.6 * heun
