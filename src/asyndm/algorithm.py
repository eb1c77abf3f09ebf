"""Asynchronous denoising: the algorithm on a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asyndm.curves import Curve, Horizon, Linear
from asyndm.masks import Mask, Scene
from asyndm.steps import AlphaTable, Prediction, ddim_step


class Network(Protocol):
    """A denoising network with a timestep per pixel: (x, whole timesteps (B, H, W)) -> (output, attention maps)."""

    def __call__(self, x: Tensor, index: Tensor, /) -> tuple[Tensor, Tensor | None]: ...


class NextTimesteps(Protocol):
    """Where every pixel goes from t when r updates remain, given the weights: t, r, (B, S, H, W) -> (B, H, W)."""

    def __call__(self, t: Tensor, remaining: int, weights: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Schedule:
    """t' = w·curve(t) + (1-w)·line(t), per pixel; w and ω are those of the subject that owns the pixel."""

    curve: Curve
    horizon: Horizon
    scene: Scene

    def __call__(self, t: Tensor, remaining: int, weights: Tensor) -> Tensor:
        w, omega = self.scene.owned(weights)
        curved = self.curve.advance(t, remaining, self.horizon, omega)
        return w * curved + (1 - w) * Linear().advance(t, remaining, self.horizon)


@torch.no_grad()
def denoise(
    network: Network,
    x: Tensor,
    weights: Tensor,
    *,
    horizon: Horizon,
    schedule: NextTimesteps,
    mask: Mask,
    scene: Scene,
    alphas: AlphaTable,
    prediction: Prediction,
    eta: float = 0.0,
    noise: Tensor | None = None,
    callback: Callable[[StepRecord], None] | None = None,
) -> Tensor:
    """The algorithm: N evaluations, every pixel at its own timestep t.

    Args:
        network: evaluated at x and the rounded timestep map.
        x: (B, C, H, W) initial noise.
        weights: (B, S, H, W) of the mask before the first evaluation.
        noise: (N, B, C, H, W) standard normal, needed if eta > 0.

    Returns:
        (B, C, H, W), fully denoised.
    """
    N = horizon.num_inference_steps
    t = torch.full((len(x), *x.shape[-2:]), horizon.t_start, dtype=torch.float64, device=x.device)
    t = schedule(t, N, weights)
    for i in range(1, N + 1):
        t_next = schedule(t, N - i, weights)
        a, s = alphas.at(t), alphas.at(t_next) if i < N else alphas.clean
        output, maps = network(x, alphas.index(t))
        z = None if noise is None else noise[i - 1]
        x, x0 = ddim_step(x, output, a, s, eta=eta, noise=z, prediction=prediction)
        if callback is not None:
            callback(StepRecord(i, N - i, t, t_next, weights, output, maps, x, x0))
        t, weights = t_next, mask.follow(weights, maps, scene)
    return x


@dataclass(frozen=True)
class StepRecord:
    """What one step did; all tensors on the sampling device.

    Args:
        step: i = 1 ... N.
        remaining: N - i.
        timesteps: (B, H, W) float64, before the step.
        next_timesteps: (B, H, W) float64, after it.
        weights: (B, S, H, W), the mask that steered it.
        output: (B, C, H, W), the network's output, guided.
        maps: (B, S, h, w) attention maps of this evaluation, if they were read.
        latents: (B, C, H, W) after the step.
        sample: (B, C, H, W) the predicted x₀.
    """

    step: int
    remaining: int
    timesteps: Tensor
    next_timesteps: Tensor
    weights: Tensor
    output: Tensor
    maps: Tensor | None
    latents: Tensor
    sample: Tensor
