"""A solver driven from level to level, beside a stock scheduler, with an exact network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler
from torch import Tensor

from asyndm.guidance.base import Guided
from asyndm.ladder import Ladder, Level
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.solvers import Solver
from asyndm.steps import FLOW, Move, Prediction

SHAPE = (2, 4, 6, 5)
TABLE = {key: SD_SCHEDULER[key] for key in ("beta_start", "beta_end", "beta_schedule")}
COUNT_RATIO = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, LMSDiscreteScheduler)
"""Schedulers whose state is x/α."""
EPSILON = Prediction()
Network = Callable[[Tensor, Level], Tensor]


def draw_normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def predict_mixture(x: Tensor, level: Level) -> Tensor:
    """x₀ of an exact network, of pixels that are N(±0.8, 0.5²) with equal chance."""
    alpha, sigma = level
    variance = (alpha * 0.5) ** 2 + sigma**2
    mean = 0.8 * torch.tanh(alpha * 0.8 * x / variance)
    return (alpha * 0.5**2 * x + sigma**2 * mean) / variance


def make_network(prediction_type: str) -> Network:
    def network(x: Tensor, level: Level) -> Tensor:
        alpha, sigma = level
        x0 = predict_mixture(x, level)
        if prediction_type == FLOW:
            return (x - x0) / sigma
        epsilon = (x - alpha * x0) / sigma
        return epsilon if prediction_type == "epsilon" else alpha * epsilon - sigma * x0

    return network


def list_levels(stock: Any) -> list[Level]:
    """The N levels of a scheduler and its clean end."""
    ladder = Ladder(stock)
    rungs = torch.arange(len(ladder) - 1.0, -1.0, -1.0, dtype=torch.float64)
    levels = [ladder.level(rung.expand(1, 1, 1, 1)) for rung in rungs]
    return [*levels, Level(*(part.view(1, 1, 1, 1) for part in ladder.clean))]


def drive(
    solver: Solver,
    x: Tensor,
    levels: list[Level],
    network: Network,
    *,
    eta: float = 0.0,
    draws: list[Tensor] | None = None,
    prediction: Prediction = EPSILON,
) -> Tensor:
    """x after all steps through these levels."""
    history: dict[str, Tensor] = {}
    for i, (now, then) in enumerate(zip(levels[:-1], levels[1:], strict=True)):

        def evaluate(there: Tensor, level: Level = then) -> Guided:
            return Guided(network(there, level))

        move = Move(now, then, eta, None if draws is None else draws[i], prediction)
        last = i == len(levels) - 2
        guided = Guided(network(x, now))
        x, _ = solver.step(x, guided, move, history, None if last else evaluate)
    return x


def drive_stock(
    stock: Any, x: Tensor, levels: list[Level], network: Network, **arguments: list[Any]
) -> Tensor:
    """The same by a scheduler's own step. Arguments are for each step."""
    counts_ratio = isinstance(stock, COUNT_RATIO)
    x = x / levels[0].alpha if counts_ratio else x
    for i, t in enumerate(stock.timesteps):
        state = stock.scale_model_input(x, t) if counts_ratio else x
        own = {name: values[i] for name, values in arguments.items()}
        x = stock.step(network(state, levels[i]), t, x, **own).prev_sample
    return x
