"""The whole way of one pixel along a curve."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.curves import Curve


def record_trajectory(curve: Curve, steps: int) -> Tensor:
    """The places in rungs at which a pixel that never leaves ``curve`` is evaluated, from one above
    the first rung on, as on "leading" ladders: (N,) float64, the last of them 0."""
    u = torch.tensor(float(steps), dtype=torch.float64)
    places = []
    for remaining in range(steps, 0, -1):
        u = curve.advance(u, remaining, steps)
        places.append(u)
    return torch.stack(places)
