"""The step of every pixel between two noise levels of its own: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asyndm.errors import UserError
from asyndm.ladder import Level
from asyndm.protocols import StockScheduler

if TYPE_CHECKING:
    from asyndm.guidance.base import Guided

FLOW = "flow_prediction"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", FLOW)


@dataclass(frozen=True)
class Prediction:
    """What the network's output means and how the predicted x₀ is kept in range, as the scheduler
    says.

    Args:
        prediction_type: epsilon, v_prediction, sample, or flow_prediction (ε - x₀).
        clip_range: x₀ is clamped to ±clip_range; None: it is not.
        threshold: (quantile, largest) of dynamic thresholding (arXiv 2205.11487), which replaces
            clipping: x₀ is clamped to ± that quantile s of its image's |x₀|, s in [1, largest], and
            divided by s.
    """

    prediction_type: str = "epsilon"
    clip_range: float | None = None
    threshold: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise UserError(
                f"prediction_type {self.prediction_type!r} of the scheduler is not supported: "
                f"use a model with {', '.join(PREDICTION_TYPES)}"
            )

    @classmethod
    def of(cls, scheduler: StockScheduler, flow: bool = False) -> Prediction:
        """As a scheduler says; of what its config merely carries along from another one it takes
        nothing."""
        known = signature(type(scheduler).__init__).parameters
        config = {name: value for name, value in scheduler.config.items() if name in known}
        ratio = config.get("dynamic_thresholding_ratio", 0.995)
        largest = config.get("sample_max_value", 1.0)
        return cls(
            FLOW if flow else config.get("prediction_type", "epsilon"),
            config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None,
            (ratio, largest) if config.get("thresholding") else None,
        )

    def __call__(self, x: Tensor, output: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """(x₀, ε) from the state x, the network's output and its level; x₀ is clipped, ε is as
        predicted.

        - epsilon: x₀ = (x - σ ε)/α. At α = 0 the output says nothing of x₀, and 0 is taken.
        - v_prediction: x₀ = α x - σ v, ε = α v + σ x.
        - sample: ε = (x - α x₀)/σ. At σ = 0 there is no noise, and 0 is taken.
        - flow_prediction: x₀ = x - σ v, ε = x + α v.
        """
        alpha, sigma = level
        if self.prediction_type == "epsilon":
            x0, epsilon = torch.where(alpha > 0, (x - sigma * output) / alpha, 0.0), output
        elif self.prediction_type == "v_prediction":
            x0, epsilon = alpha * x - sigma * output, alpha * output + sigma * x
        elif self.prediction_type == FLOW:
            x0, epsilon = x - sigma * output, x + alpha * output
        else:
            x0, epsilon = output, torch.where(sigma > 0, (x - alpha * output) / sigma, 0.0)
        return self._in_range(x0), epsilon

    def invert(self, x: Tensor, x0: Tensor, level: Level) -> Tensor:
        """The output that predicts this x₀ from x, where nothing is clipped: (x - α x₀)/σ,
        (α x - x₀)/σ, x₀, and (x - x₀)/σ. At σ = 0 there is no noise, and 0 is taken."""
        alpha, sigma = level
        if self.prediction_type == "sample":
            return x0
        if self.prediction_type == "epsilon":
            difference = x - alpha * x0
        elif self.prediction_type == "v_prediction":
            difference = alpha * x - x0
        else:
            difference = x - x0
        return torch.where(sigma > 0, difference / sigma, 0.0)

    def _in_range(self, x0: Tensor) -> Tensor:
        if self.threshold is not None:
            quantile, largest = self.threshold
            s = torch.quantile(x0.flatten(1).abs(), quantile, dim=1).clamp(1, max(1.0, largest))
            s = s.view(-1, *(1,) * (x0.ndim - 1))
            return x0.clamp(-s, s) / s
        return x0 if self.clip_range is None else x0.clamp(-self.clip_range, self.clip_range)


@dataclass(frozen=True)
class Move:
    """One step, in which every pixel goes from its own timestep t to its own s.

    Args:
        level_t, level_s: (αₜ, σₜ) where each pixel stands and (αₛ, σₛ) where it goes, broadcastable
            to x.
        eta: η in [0, 1]: 0 deterministic, 1 as noisy as DDPM.
        noise: z, of x's shape, standard normal; may be None if η = 0.
        prediction: what the network's output means.

    Raises:
        UserError: η > 0 without noise.
    """

    level_t: Level
    level_s: Level
    eta: float = 0.0
    noise: Tensor | None = None
    prediction: Prediction = Prediction()

    def __post_init__(self) -> None:
        if self.eta > 0 and self.noise is None:
            raise UserError("noise is needed when eta > 0")

    @property
    def changes(self) -> Tensor:
        """Where the level does, bool, of the levels' shape. Elsewhere x must stay, to the bit."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.level_t, self.level_s
        return (alpha_s != alpha_t) | (sigma_s != sigma_t)

    def predict(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """(x₀, ε) from xₜ and the network's output there, each of x's shape."""
        return self.prediction(x, output, self.level_t)

    def apply(self, x: Tensor, x0: Tensor, epsilon: Tensor) -> Tensor:
        """xₛ = αₛ x₀ + √(σₛ² - v) ε + √v z with v = η² (σₛ²/σₜ²)(σₜ² - σₛ² αₜ²/αₛ²) (DDIM, arXiv
        2010.02502, eq. 12 and 16). Where the level stays nothing changes.

        Args:
            x: xₜ, (B, ...) float32.
            x0, epsilon: of the same shape, what x is taken to be made of.
        """
        alpha_s, sigma_s = self.level_s
        if self.noise is not None and self.eta > 0:
            variance = self.eta**2 * _compute_posterior_variance(self.level_t, self.level_s)
            direction = (sigma_s.double() ** 2 - variance).clamp(min=0).sqrt().float()
            x_s = alpha_s * x0 + direction * epsilon + variance.sqrt().float() * self.noise
        else:
            x_s = alpha_s * x0 + sigma_s * epsilon
        # Clipping, and rounding alone, would move a pixel that stays.
        return torch.where(self.changes, x_s, x)

    def step(self, x: Tensor, guided: Guided) -> tuple[Tensor, Tensor]:
        """One step of DDIM, or of Euler for a flow: `apply` with x₀ and ε as the network says.

        For a flow with η = 0 that is xₛ = xₜ + (σₛ - σₜ) output, and computed so.

        Args:
            x: xₜ, (B, ...) float32.
            guided: of the same shape. With a ``renoise`` ε is predicted from that (CFG++, arXiv
                2406.08070).

        Returns:
            xₛ and the predicted x₀.
        """
        x0, epsilon = self.predict(x, guided.output)
        if guided.renoise is not None:
            epsilon = self.predict(x, guided.renoise)[1]
        elif self.prediction.prediction_type == FLOW and not self.eta:
            # Not by way of x₀ and ε: only so is it the stock Euler step to the last bit.
            x_s = x + (self.level_s.sigma - self.level_t.sigma) * guided.output
            return torch.where(self.changes, x_s, x), x0
        return self.apply(x, x0, epsilon), x0


def _compute_posterior_variance(level_t: Level, level_s: Level) -> Tensor:
    """Of xₛ given xₜ and x₀, the v of η = 1; float64, since it is a difference of near equals."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.alpha.double(), level.sigma.double()) for level in (level_t, level_s)
    )
    ratio = torch.where(sigma_t > 0, (sigma_s / sigma_t) ** 2, 0.0)
    return (ratio * (sigma_t**2 - (sigma_s * alpha_t / alpha_s) ** 2)).clamp(min=0)
