"""Whose pixels a mask shares out: the subjects of a batch of images, and where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.subjects import Subject

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """The subjects of a batch of images.

    Args:
        concavity: (B, S) float64, each subject's ω; -1 where an image has fewer subjects than S.
        size: (H, W) of the network's token grid: latent pixels for a UNet.
        subjects: of each image, with their counts.
    """

    concavity: Tensor
    size: tuple[int, int]
    subjects: Sequence[Sequence[Subject]] = ()

    @property
    def present(self) -> Tensor:
        """(B, S) bool: which subjects are real."""
        return self.concavity >= 0

    @property
    def counts(self) -> Tensor:
        """(B, S) int64: how many there are to be of each subject; 1 where nothing says it."""
        import torch

        counts = torch.ones(self.concavity.shape, dtype=torch.long)
        for row, named in zip(counts, self.subjects, strict=False):
            row[: len(named)] = torch.tensor([subject.count or 1 for subject in named])
        return counts.to(self.concavity.device)

    def weights(self, fill: float) -> Tensor:
        """(B, S, H, W) float64 weights: ``fill`` everywhere for the subject of largest ω, 0 for the
        others."""
        first = self.concavity.new_zeros(self.concavity.shape)
        first.scatter_(1, self.concavity.argmax(1, keepdim=True), fill)
        return first[:, :, None, None].repeat(1, 1, *self.size)

    def remove_overlap(self, weights: Tensor) -> Tensor:
        """Weights without overlap: each pixel to the subject of largest ω that covers it, ties to
        the first."""
        owner = self._omega(weights, -1.0).argmax(1, keepdim=True)
        return weights.new_zeros(weights.shape).scatter(1, owner, weights.gather(1, owner))

    def combine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Each pixel's weight and ω, both (B, H, W), without overlap."""
        weights = self.remove_overlap(weights)
        return weights.sum(1), self._omega(weights, 0.0).sum(1)

    def _omega(self, weights: Tensor, otherwise: float) -> Tensor:
        """(B, S, H, W), the subject's ω where it has weight."""
        return self.concavity[:, :, None, None].where(weights > 0, otherwise)
