"""Where a step leads every pixel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from asyndm.ladder import Level


@dataclass(frozen=True)
class Course:
    """Where every pixel stands before a step and where it goes: rungs (B, h, w), the levels there
    spread over x, and the timesteps of both, spread as well."""

    u_t: Tensor
    u_s: Tensor
    level_t: Level
    level_s: Level
    timesteps: Tensor
    next_timesteps: Tensor


def expand_level(level: Level, like: Tensor) -> Level:
    """A level for each token over latents, see `expand_map`."""
    return Level(alpha=expand_map(level.alpha, like), sigma=expand_map(level.sigma, like))


def expand_map(values: Tensor, like: Tensor) -> Tensor:
    """A map (B, h, w) over latents: (B, 1, H, W), each token's value on all its pixels; packed
    latents: (B, h w, 1)."""
    if like.ndim == 3:
        return values.flatten(1)[..., None]
    height, width = like.shape[-2] // values.shape[-2], like.shape[-1] // values.shape[-1]
    if height * width > 1:
        values = values.repeat_interleave(height, -2).repeat_interleave(width, -1)
    return values[:, None]
