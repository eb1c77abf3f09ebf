"""Guidances that only look: what a loss comes to in the middle of a run, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from asyndm.guidance.attend_and_excite import AttendAndExcite
from asyndm.guidance.attention_losses import AttentionLoss, TextReader
from asyndm.guidance.base import Probe
from asyndm.guidance.moment import Moment
from asyndm.guidance.prompts import PromptTokens
from asyndm.protocols import Network


@dataclass(frozen=True)
class Looking(AttendAndExcite):
    """Leaves x as it is, and has `look` done with it in one step."""

    look: Callable[[Tensor, Moment], None] = field(default=lambda x, moment: None, repr=False)
    make: Callable[[Sequence[PromptTokens]], AttentionLoss] | None = field(default=None, repr=False)
    at: int = 2

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe:
        loss = self.make_loss(prompts) if self.make is None else self.make(prompts)
        return TextReader(self.name, network, loss, prompts, reads_self=True)

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        if moment.step == self.at:
            self.look(x, moment)
        return x


class Fixed:
    """A reader of given maps, (B, tokens, h, w)."""

    def __init__(self, maps: Tensor, prompts: Sequence[PromptTokens] = ()) -> None:
        self._maps, self.prompts, self.images = maps, prompts, range(len(maps))

    def maps(self) -> Tensor:
        return self._maps


def make_prompt(
    subjects: Sequence[Sequence[int]], end: int, length: int = 10, words: Any = ()
) -> PromptTokens:
    """A prompt of which only the places are known."""
    places = tuple(tuple(each) for each in subjects)
    return PromptTokens("", places, words, end, length, lambda start, end: ())


def draw_maps(images: int, tokens: int = 10, seed: int = 0) -> Tensor:
    """Attention maps of 4x5 places, float64: at each place the tokens share it."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, tokens, 4, 5, generator=generator, dtype=torch.float64)
    return scores.softmax(1)


def list_hooks(network: Network) -> int:
    """How many hooks a network has."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
