"""What a user chooses, as one rule: where every pixel goes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asyndm.curves import Curve, Linear
from asyndm.masks import Mask
from asyndm.scene import Scene
from asyndm.subjects import Subject

LINE = Linear()


class Advance(Protocol):
    """Where every pixel goes from u when r updates remain, of N, given the weights: (B, h, w), r,
    N, (B, S, h, w)."""

    def __call__(
        self, rungs: Tensor, remaining: int, num_inference_steps: int, weights: Tensor, /
    ) -> Tensor: ...


@dataclass(frozen=True)
class Rehearsal:
    """What a synchronous run from the same noise has left.

    Args:
        maps: (B, S, h, w), the mean of its attention maps.
        evaluations: rows the denoising network was called with for it.
        backward_evaluations: rows a gradient was taken through.
    """

    maps: Tensor
    evaluations: int
    backward_evaluations: int = 0


@dataclass(frozen=True)
class Method:
    """What a user chooses: u' = w·curve(u) + (1-w)·line(u); w and ω are those of the subject that
    owns the pixel.

    Args:
        curve: the concave schedule f.
        mask: who is on it.
        concavity: (B, S) float64, each subject's ω; -1 where an image has fewer subjects than S.
        rehearsal: the run before the run, for a mask that needs one.
        advance: another rule in place of the formula.
        subjects: of each image, for a mask that knows them by name or by number.
    """

    curve: Curve
    mask: Mask
    concavity: Tensor
    rehearsal: Rehearsal | None = None
    advance: Advance | None = None
    subjects: Sequence[Sequence[Subject]] = ()

    def make_scene(self, grid: tuple[int, int], device: torch.device) -> Scene:
        """The subjects on a grid of tokens."""
        return Scene(self.concavity.to(device), grid, self.subjects)

    def move(self, u: Tensor, r: int, N: int, weights: Tensor, scene: Scene) -> Tensor:
        """The rungs (B, h, w) after an update with r left."""
        if self.advance is not None:
            return self.advance(u, r, N, weights)
        w, omega = scene.combine(weights)
        return w * self.curve.advance(u, r, N, omega) + (1 - w) * LINE.advance(u, r, N)
