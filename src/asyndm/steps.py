"""The step of every pixel between two noise levels of its own: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor

from asyndm.errors import UserError
from asyndm.ladder import Level
from asyndm.protocols import StockScheduler

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

    def _in_range(self, x0: Tensor) -> Tensor:
        if self.threshold is not None:
            quantile, largest = self.threshold
            s = torch.quantile(x0.flatten(1).abs(), quantile, dim=1).clamp(1, max(1.0, largest))
            s = s.view(-1, *(1,) * (x0.ndim - 1))
            return x0.clamp(-s, s) / s
        return x0 if self.clip_range is None else x0.clamp(-self.clip_range, self.clip_range)


def step(
    x: Tensor,
    output: Tensor,
    level_t: Level,
    level_s: Level,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    prediction: Prediction = Prediction(),
) -> tuple[Tensor, Tensor]:
    """One step of DDIM (arXiv 2010.02502, eq. 12 and 16), or of Euler for a flow, in which every
    pixel goes from its own timestep t to its own s.

    v = η² (σₛ²/σₜ²)(σₜ² - σₛ² αₜ²/αₛ²);  xₛ = αₛ x₀ + √(σₛ² - v) ε + √v z. For a flow with η = 0
    this is xₛ = xₜ + (σₛ - σₜ) output, and computed so. Where the level stays nothing changes.

    Args:
        x: xₜ, (B, ...) float32.
        output: of the same shape, the network's output there.
        level_t, level_s: (αₜ, σₜ) where each pixel stands and (αₛ, σₛ) where it goes, broadcastable
            to x.
        eta: η in [0, 1]: 0 deterministic, 1 as noisy as DDPM.
        noise: of the same shape, z, standard normal; may be None if η = 0.
        prediction: what the output means.

    Returns:
        xₛ and the predicted x₀.

    Raises:
        UserError: η > 0 without noise.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level_t, level_s
    x0, epsilon = prediction(x, output, level_t)
    if eta > 0:
        if noise is None:
            raise UserError("noise is needed when eta > 0")
        variance = eta**2 * _compute_posterior_variance(level_t, level_s)
        direction = (sigma_s.double() ** 2 - variance).clamp(min=0).sqrt().float()
        x_s = alpha_s * x0 + direction * epsilon + variance.sqrt().float() * noise
    elif prediction.prediction_type == FLOW:
        # Not by way of x₀ and ε: only so is it the stock Euler step to the last bit.
        x_s = x + (sigma_s - sigma_t) * output
    else:
        x_s = alpha_s * x0 + sigma_s * epsilon
    # Clipping, and rounding alone, would move a pixel that stays.
    return torch.where((alpha_s != alpha_t) | (sigma_s != sigma_t), x_s, x), x0


def _compute_posterior_variance(level_t: Level, level_s: Level) -> Tensor:
    """Of xₛ given xₜ and x₀, the v of η = 1; float64, since it is a difference of near equals."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.alpha.double(), level.sigma.double()) for level in (level_t, level_s)
    )
    ratio = torch.where(sigma_t > 0, (sigma_s / sigma_t) ** 2, 0.0)
    return (ratio * (sigma_t**2 - (sigma_s * alpha_t / alpha_s) ** 2)).clamp(min=0)
