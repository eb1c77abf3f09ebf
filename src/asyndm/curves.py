"""Denoising schedules of one pixel: the straight line and three concave curves. Pure tensor maths."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyndm.errors import UserError, check_fraction, is_whole


@dataclass(frozen=True)
class Horizon:
    """The ground all pixels cover: from ``t_start = T + t_end`` to ``t_end`` in N updates, then to 0.

    Args:
        num_inference_steps: N, the number of network evaluations, 1 to T.
        num_train_timesteps: T, the timesteps the network was trained with.
        t_end: the last timestep the network sees: ``steps_offset`` of the scheduler (1 for Stable Diffusion).
    """

    num_inference_steps: int
    num_train_timesteps: int = 1000
    t_end: float = 1

    def __post_init__(self) -> None:
        n, limit = self.num_inference_steps, self.num_train_timesteps
        if not is_whole(n) or not 1 <= n <= limit:
            raise UserError(f"num_inference_steps must be a whole number from 1 to {limit}, got {n!r}")

    @property
    def t_start(self) -> float:
        return self.num_train_timesteps + self.t_end

    @property
    def slope(self) -> float:
        """T/N: what the straight line descends in one update."""
        return self.num_train_timesteps / self.num_inference_steps


@dataclass(frozen=True)
class Curve(ABC):
    """A schedule f' = ω f + (1-ω) g between a concave curve f and the straight line g.

    Every curve passes through (0, t) and (r, t_end): wherever a pixel stands and however often it changes
    its curve, it reaches t_end when no update remains (Proposition 1 of arXiv 2510.04504).

    Args:
        concavity: ω in [0, 1]. 0 is the straight line, 1 the full curve.

    Raises:
        UserError: concavity outside [0, 1].
    """

    concavity: float = 0.5

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fraction(self.concavity, "concavity")

    def advance(
        self, t: Tensor, remaining: int, horizon: Horizon, concavity: Tensor | float | None = None
    ) -> Tensor:
        """The next timestep of pixels that stand at ``t`` with ``remaining`` updates left before t_end.

        Args:
            t: timesteps, any shape.
            remaining: r = N, N-1, ..., 1, then 0: with none left every pixel goes to 0, fully clean.
            horizon: N, T and t_end.
            concavity: ω of each pixel, broadcastable to ``t``; None: the curve's own.

        Returns:
            float64 timesteps of the shape of ``t``.
        """
        t = t.double()
        if remaining == 0:
            return torch.zeros_like(t)
        if not 0 < remaining <= horizon.num_inference_steps:
            raise UserError(f"remaining must be 0 to {horizon.num_inference_steps}, got {remaining}")
        omega = self.concavity if concavity is None else concavity
        return self._advance(t, remaining, horizon, omega.double() if isinstance(omega, Tensor) else omega)

    @abstractmethod
    def _advance(self, t: Tensor, r: int, horizon: Horizon, omega: Tensor | float) -> Tensor: ...


@dataclass(frozen=True)
class Linear(Curve):
    """The synchronous schedule: t + (t_end - t)/r. Its concavity is ignored."""

    name: ClassVar[str] = "linear"

    def _advance(self, t: Tensor, r: int, horizon: Horizon, omega: Tensor | float) -> Tensor:
        return t + (horizon.t_end - t) / r


@dataclass(frozen=True)
class Quadratic(Curve):
    """linear + ω (T/N²)(r - 1): the parabola of second difference -2ωT/N² through (0, t) and (r, t_end)."""

    name: ClassVar[str] = "quadratic"

    def _advance(self, t: Tensor, r: int, horizon: Horizon, omega: Tensor | float) -> Tensor:
        bonus = horizon.slope / horizon.num_inference_steps * (r - 1)
        return t + (horizon.t_end - t) / r + omega * bonus


@dataclass(frozen=True)
class PiecewiseLinear(Curve):
    """min( t - (1-ω) T/N, t_end + (1+ω)(T/N)(r - 1) ): slow, then fast.

    A pixel that leaves a high-ω subject for a low-ω one can drop by several hundred timesteps at once.
    """

    name: ClassVar[str] = "piecewise_linear"

    def _advance(self, t: Tensor, r: int, horizon: Horizon, omega: Tensor | float) -> Tensor:
        slow = t - (1 - omega) * horizon.slope
        fast = torch.as_tensor(
            horizon.t_end + (1 + omega) * horizon.slope * (r - 1), dtype=t.dtype, device=t.device
        )
        return torch.minimum(slow, fast)


@dataclass(frozen=True)
class Exponential(Curve):
    """t + b - (t + b r - t_end) expm1(1/N)/expm1(r/N), b = -(1-ω) T/N: a line plus an exponential of rate 1/N.

    At ω = 0 this is the straight line for a pixel that stands on it, and leads any other back to t_end.
    """

    name: ClassVar[str] = "exponential"

    def _advance(self, t: Tensor, r: int, horizon: Horizon, omega: Tensor | float) -> Tensor:
        b = (omega - 1) * horizon.slope
        n = horizon.num_inference_steps
        return t + b - (t + b * r - horizon.t_end) * (math.expm1(1 / n) / math.expm1(r / n))
