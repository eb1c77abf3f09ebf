"""The search of InitNO for a noise in which no subject is neglected and none conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asyndm.guidance.attention_losses import Scores, TextReader, score
from asyndm.guidance.moment import Moment

if TYPE_CHECKING:
    from asyndm.guidance.init_no import InitNO

DECAYS = (0.9, 0.999)
"""Of Adam's means of the gradient and of its square."""
FLOOR = 1e-3
"""What Adam adds to the root of the latter: far above a gradient of attention, so that the step
follows its size."""


def search_noise(guidance: InitNO, x: Tensor, moment: Moment) -> Tensor:
    """x of a noise that is good enough, or the best there is.

    Args:
        x: the run's own noise, (B, C, H, W).
    """
    fresh = [moment.draw_spare(x) for _ in range(guidance.noises - 1)]
    kept = best = reached = x
    searched = torch.ones(len(x), dtype=torch.bool, device=x.device)
    least = x.new_full((len(x),), torch.inf)
    for noise in (x, *fresh):
        made, losses, good = optimise(guidance, noise, moment, guidance.updates, searched)
        kept = choose(searched & good, made, kept)
        better = searched & (losses < least)
        best, least = choose(better, noise, best), losses.where(better, least)
        reached = choose(better, made, reached)
        searched = searched & ~good
        if not searched.any():
            return kept
    if not guidance.last_updates:
        return choose(searched, reached, kept)
    made, _, _ = optimise(guidance, best, moment, guidance.last_updates, searched)
    return choose(searched, made, kept)


def optimise(
    guidance: InitNO, noise: Tensor, moment: Moment, updates: int, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A noise with another mean and variance.

    Args:
        updates: at the most.
        active: (B,) bool, the images to optimise.

    Returns:
        x (B, C, H, W), the last loss of each image, (B,), and whether it is good enough, (B,) bool.
    """
    reader = moment.probe
    assert isinstance(reader, TextReader)
    values = Gaussian(torch.zeros_like(noise), torch.zeros_like(noise))
    last = noise.new_full((len(noise),), torch.inf)
    good = torch.zeros_like(active)
    for update in range(1, updates + 1):
        found: list[Scores] = []

        def measure(found: list[Scores] = found) -> Tensor:
            assert isinstance(reader, TextReader)
            found.append(score(reader, reader.prompts, guidance.padding))
            return found[0].neglect + found[0].conflict

        place = active.nonzero().flatten()
        x = values.draw(noise)[place]
        losses, gradient = reader.differentiate(moment, x, place.tolist(), measure)
        last = last.index_copy(0, place, losses.to(last.dtype))
        neglect, conflict = found[0].neglect.detach(), found[0].conflict.detach()
        done = (neglect < guidance.neglect_limit) & (conflict < guidance.conflict_limit)
        good = good.index_copy(0, place, done)
        active = active.index_copy(0, place, ~done)
        if not active.any():
            break
        gradient = torch.zeros_like(noise).index_copy(0, place, gradient.to(noise.dtype))
        moved = values.descend(noise, gradient, update, guidance.learning_rate)
        values = moved.shorten(guidance.kl_limit).where(active, values)
    return values.draw(noise), last, good


@dataclass(frozen=True)
class Gaussian:
    """x = μ + e^(v/2) ε, and Adam's memory of the gradients of μ and v.

    Args:
        mean: μ, (B, C, H, W).
        log_variance: v, likewise.
        memory: of each of both, the means of its gradient and of the square.
    """

    mean: Tensor
    log_variance: Tensor
    memory: Sequence[tuple[Tensor, Tensor]] = field(default=())

    def draw(self, noise: Tensor) -> Tensor:
        """x of this ε."""
        return self.mean + (self.log_variance / 2).exp() * noise

    def descend(self, noise: Tensor, gradient: Tensor, update: int, rate: float) -> Gaussian:
        """After an update of Adam (arXiv 1412.6980, algorithm 1).

        Args:
            gradient: ∇ₓ of the loss.
            update: its number, from 1.
        """
        slopes = gradient, gradient * noise * (self.log_variance / 2).exp() / 2
        nought = torch.zeros_like(noise)
        moved, memory = [], []
        for value, slope, kept in zip(
            (self.mean, self.log_variance),
            slopes,
            self.memory or [(nought, nought)] * 2,
            strict=True,
        ):
            first = DECAYS[0] * kept[0] + (1 - DECAYS[0]) * slope
            second = DECAYS[1] * kept[1] + (1 - DECAYS[1]) * slope**2
            root = (second / (1 - DECAYS[1] ** update)).sqrt() + FLOOR
            moved.append(value - rate * first / (1 - DECAYS[0] ** update) / root)
            memory.append((first, second))
        return Gaussian(moved[0], moved[1], memory)

    @property
    def divergence(self) -> Tensor:
        """(B,): KL from the standard normal, mean over pixels and channels."""
        v = self.log_variance
        return (self.mean**2 + v.exp() - 1 - v).flatten(1).mean(1) / 2

    def shorten(self, limit: float) -> Gaussian:
        """μ and v times what brings KL, nearly a square of them, to the limit if it is above."""
        share = (limit / self.divergence.clamp(min=limit or 1e-30)).sqrt()
        share = share[:, None, None, None]
        return Gaussian(self.mean * share, self.log_variance * share, self.memory)

    def where(self, chosen: Tensor, other: Gaussian) -> Gaussian:
        """This for the images chosen, (B,) bool, and the other one for the rest, whose memory is
        not needed any more."""
        return Gaussian(
            choose(chosen, self.mean, other.mean),
            choose(chosen, self.log_variance, other.log_variance),
            self.memory,
        )


def choose(chosen: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """x of the images chosen, (B,) bool, and the other's of the rest."""
    return x.where(chosen[:, None, None, None], other)
