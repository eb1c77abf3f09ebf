"""The per-pixel DDIM step: a pure function of two noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asyndm.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class AlphaTable:
    """ᾱ of a discrete-time model, looked up per pixel on the table's own device.

    Args:
        alphas: (T,) float32, ᾱ_t for t = 0 ... T-1 (``alphas_cumprod``).
        clean: () float32, ᾱ of the fully clean end (the scheduler's ``final_alpha_cumprod``).
    """

    alphas: Tensor
    clean: Tensor

    @classmethod
    def from_scheduler(cls, scheduler: Any, device: torch.device | str = "cpu") -> AlphaTable:
        """The table of a ``DDIMScheduler``."""
        clean = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float32)
        return cls(scheduler.alphas_cumprod.float().to(device), clean.to(device))

    def index(self, t: Tensor) -> Tensor:
        """Float timesteps to the nearest whole ones (ties to even), clamped to [0, T-1]: long, same shape."""
        return t.round().clamp(0, len(self.alphas) - 1).long()

    def at(self, t: Tensor) -> Tensor:
        """ᾱ at float timesteps (B, H, W), with room for channels: (B, 1, H, W)."""
        return self.alphas[self.index(t)][:, None]


@dataclass(frozen=True)
class Prediction:
    """What the network's output means and how the predicted x₀ is kept in range, as the scheduler says.

    Args:
        prediction_type: epsilon, v_prediction or sample.
        clip_range: x₀ is clamped to ±clip_range; None: it is not.
        threshold: (quantile, largest) of dynamic thresholding (arXiv 2205.11487), which replaces clipping:
            x₀ is clamped to ± that quantile s of its image's |x₀|, s in [1, largest], and divided by s.
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
    def from_config(cls, config: Mapping[str, Any]) -> Prediction:
        """From a ``DDIMScheduler``'s config."""
        return cls(
            config["prediction_type"],
            config["clip_sample_range"] if config["clip_sample"] else None,
            (config["dynamic_thresholding_ratio"], config["sample_max_value"])
            if config["thresholding"]
            else None,
        )

    def __call__(self, x: Tensor, output: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """(x₀, ε) from the state x, the network's output and ᾱ; x₀ is clipped, ε is as predicted.

        - epsilon: x₀ = (x - √(1-a) ε)/√a. At a = 0 the output says nothing of x₀, and 0 is taken.
        - v_prediction: x₀ = √a x - √(1-a) v, ε = √a v + √(1-a) x.
        - sample: ε = (x - √a x₀)/√(1-a). At a = 1 there is no noise, and 0 is taken.
        """
        signal, noise = a.sqrt(), (1 - a).sqrt()
        if self.prediction_type == "epsilon":
            x0, epsilon = torch.where(a > 0, (x - noise * output) / signal, 0.0), output
        elif self.prediction_type == "v_prediction":
            x0, epsilon = signal * x - noise * output, signal * output + noise * x
        else:
            x0, epsilon = output, torch.where(a < 1, (x - signal * output) / noise, 0.0)
        return self._in_range(x0), epsilon

    def _in_range(self, x0: Tensor) -> Tensor:
        if self.threshold is not None:
            quantile, largest = self.threshold
            s = torch.quantile(x0.flatten(1).abs(), quantile, dim=1).clamp(1, max(1.0, largest))
            s = s[:, None, None, None]
            return x0.clamp(-s, s) / s
        return x0 if self.clip_range is None else x0.clamp(-self.clip_range, self.clip_range)


def ddim_step(
    x: Tensor,
    output: Tensor,
    a: Tensor,
    s: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    prediction: Prediction = Prediction(),
) -> tuple[Tensor, Tensor]:
    """One DDIM step (arXiv 2010.02502, eq. 12 and 16) in which every pixel has its own two levels.

    σ² = η² (1-s)/(1-a) (1 - a/s);  x' = √s x₀ + √(1-s-σ²) ε + σ z. Where s = a nothing changes.

    Args:
        x: (B, C, H, W) the state at level a.
        output: (B, C, H, W) the network's output there.
        a: (B, 1, H, W) ᾱ now.
        s: ᾱ after the step, broadcastable to ``a``.
        eta: η in [0, 1]: 0 deterministic, 1 as noisy as DDPM.
        noise: (B, C, H, W) z, standard normal; may be None if η = 0.
        prediction: what the output means.

    Returns:
        x' and the predicted x₀, both (B, C, H, W).
    """
    x0, epsilon = prediction(x, output, a)
    change = s != a
    variance = torch.where(change, (1 - s) / (1 - a) * (1 - a / s), 0.0).clamp(0, 1) * eta**2
    following = s.sqrt() * x0 + (1 - s - variance).clamp(min=0).sqrt() * epsilon
    if eta > 0:
        if noise is None:
            raise UserError("noise is needed when eta > 0")
        following = following + variance.sqrt() * noise
    return torch.where(change, following, x), x0
