"""The whole way of one pixel along a curve."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.curves import Curve, Horizon


def trajectory(curve: Curve, horizon: Horizon) -> Tensor:
    """The N timesteps at which a pixel that never leaves ``curve`` is evaluated, then 0: (N+1,) float64."""
    t = torch.tensor(horizon.t_start, dtype=torch.float64)
    levels = []
    for remaining in range(horizon.num_inference_steps, -1, -1):
        t = curve.advance(t, remaining, horizon)
        levels.append(t)
    return torch.stack(levels)
