"""Denoising schedules of one pixel: the straight line and three concave curves. Pure maths, of
tensors or one number.

A pixel's place u is counted in rungs of the scheduler's own ladder that are left on the straight
line: N-1 at its first timestep, 0 at its last. `asyndm.ladder` says which noise level a rung is; no
curve knows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from asyndm.choices import to_snake_case
from asyndm.errors import UserError, check_fraction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Curve(ABC):
    """A schedule f' = ω f + (1-ω) g between a concave curve f and the straight line g.

    Every curve passes through (0, u) and (r, 0): wherever a pixel stands and however often it
    changes its curve, it reaches the last rung when no update remains (Proposition 1 of arXiv
    2510.04504).

    Args:
        concavity: ω in [0, 1]. 0 is the straight line, 1 the full curve.

    Attributes:
        label: what it is called, ``curve=quadratic`` and in tables; unless the class says another,
            its own name in words: ``PiecewiseLinear`` is "piecewise_linear".
        straight: whether it is the straight line at every ω.

    Both are a class's own, never inherited.

    Raises:
        UserError: concavity outside [0, 1].
    """

    concavity: float = 0.5

    label: ClassVar[str]
    straight: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.label = vars(cls).get("label", to_snake_case(cls.__name__))
        cls.straight = vars(cls).get("straight", False)

    def __post_init__(self) -> None:
        check_fraction(self.concavity, "concavity")

    def bends(self, concavity: float) -> bool:
        """Whether a subject of this ω leaves the straight line."""
        return not self.straight and concavity > 0

    def advance(
        self,
        rungs: Tensor,
        remaining: int,
        num_inference_steps: int,
        concavity: Tensor | float | None = None,
    ) -> Tensor:
        """The next place of pixels that stand at ``rungs`` with ``remaining`` updates left before
        the last rung.

        Args:
            rungs: u, any shape.
            remaining: r = N, N-1, ..., 1.
            num_inference_steps: N, the rungs of the whole ladder.
            concavity: ω of each pixel, broadcastable to ``rungs``; None: the curve's own.

        Returns:
            float64 rungs of the shape of ``rungs``.
        """
        _check_remaining(remaining, num_inference_steps)
        omega = self.concavity if concavity is None else concavity
        omega = omega if isinstance(omega, int | float) else omega.double()
        return self._advance(rungs.double(), remaining, num_inference_steps, omega)

    def advance_one(self, rungs: float, remaining: int, num_inference_steps: int) -> float:
        """`advance` of one pixel by the curve's own concavity, which needs no torch: to draw the
        curve."""
        _check_remaining(remaining, num_inference_steps)
        place: Any = np.float64(rungs)
        return float(self._advance(place, remaining, num_inference_steps, self.concavity))

    @abstractmethod
    def _advance(self, u: Tensor, r: int, N: int, omega: Tensor | float) -> Tensor: ...


def _check_remaining(remaining: int, num_inference_steps: int) -> None:
    if not 0 < remaining <= num_inference_steps:
        raise UserError(f"remaining must be 1 to {num_inference_steps}, got {remaining}")


@dataclass(frozen=True)
class Linear(Curve):
    """The synchronous schedule: u - u/r. Its concavity is ignored."""

    straight = True

    def _advance(self, u: Tensor, r: int, N: int, omega: Tensor | float) -> Tensor:
        return u - u / r


@dataclass(frozen=True)
class Quadratic(Curve):
    """linear + ω (r-1)/N: the parabola of second difference -2ω/N through (0, u) and (r, 0)."""

    def _advance(self, u: Tensor, r: int, N: int, omega: Tensor | float) -> Tensor:
        return u - u / r + omega * ((r - 1) / N)


@dataclass(frozen=True)
class PiecewiseLinear(Curve):
    """min( u - (1-ω), (1+ω)(r-1) ): slow, then fast.

    A pixel that leaves a high-ω subject for a low-ω one can drop by a third of the ladder at once.
    """

    def _advance(self, u: Tensor, r: int, N: int, omega: Tensor | float) -> Tensor:
        return (u - (1 - omega)).clip(max=(1 + omega) * (r - 1))


@dataclass(frozen=True)
class Exponential(Curve):
    """u + b - (u + b r) expm1(1/N)/expm1(r/N), b = ω - 1: a line plus an exponential of rate 1/N.

    At ω = 0 this is the straight line for a pixel that stands on it, and leads any other back to
    the last rung.
    """

    def _advance(self, u: Tensor, r: int, N: int, omega: Tensor | float) -> Tensor:
        b = omega - 1
        return u + b - (u + b * r) * (math.expm1(1 / N) / math.expm1(r / N))
