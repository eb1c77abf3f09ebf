"""One rule: where every pixel goes next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyndm.curves import Linear, Quadratic
from asyndm.masks import DynamicMask
from asyndm.method import Method

GRID = (1, 3)
OMEGA = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
"""Of two subjects of one image."""


def test_a_pixel_moves_between_the_curve_of_its_owner_and_the_line() -> None:
    method = Method(Quadratic(), DynamicMask(), OMEGA)
    scene = method.make_scene(GRID, torch.device("cpu"))
    assert scene.size == GRID and torch.equal(scene.concavity, OMEGA)
    # the first pixel is of no subject, the second of both, the third half of the first
    weights = torch.tensor([[[[0.0, 1.0, 0.5]], [[0.0, 1.0, 0.0]]]], dtype=torch.float64)
    u = torch.full((1, *GRID), 9.0, dtype=torch.float64)
    moved = method.move(u, 8, 10, weights, scene)[0, 0]
    line = float(Linear().advance(u, 8, 10)[0, 0, 0])
    steep, flat = (
        float(Quadratic().advance(u[:, :, :1], 8, 10, torch.tensor(omega))[0, 0, 0])
        for omega in (0.8, 0.2)
    )
    assert moved.tolist() == pytest.approx([line, steep, (flat + line) / 2], abs=1e-6)
    assert steep > flat > line


def test_another_rule_takes_the_place_of_the_formula() -> None:
    def halve(u: Tensor, remaining: int, steps: int, weights: Tensor, /) -> Tensor:
        return u / 2 + remaining - steps

    method = Method(Quadratic(), DynamicMask(), OMEGA, advance=halve)
    scene = method.make_scene(GRID, torch.device("cpu"))
    u = torch.full((1, *GRID), 9.0, dtype=torch.float64)
    assert method.move(u, 8, 10, u[:, None], scene).tolist() == [[[2.5, 2.5, 2.5]]]
