"""Losses of a UNet's attention to text and to itself, and the reader that they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.attention import ProjectedMaps
from asyndm.compilation import suspend_compilation
from asyndm.errors import UserError
from asyndm.guidance.base import Rows
from asyndm.guidance.moment import Moment
from asyndm.guidance.prompts import PromptTokens
from asyndm.guidance.self_attention import compute_probabilities, smooth
from asyndm.networks.unet import find_layers
from asyndm.protocols import Network

SHARPNESS = 100.0
"""What attention is multiplied by before its softmax over tokens."""
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A noun and what is said of it, each by its token positions."""

    noun: Tokens
    modifiers: tuple[Tokens, ...]


class AttentionLoss(ABC):
    """Of each image alone, so that the gradient of their sum is that of each."""

    def is_defined(self, image: int) -> bool:
        """Whether this image of the batch has one that is not always 0."""
        return True

    @abstractmethod
    def __call__(self, reader: TextReader) -> Tensor:
        """(B,), differentiable, of the images that have been read."""


class TextReader:
    """Reads the cross-attention of the prompt's rows to each token, in the evaluations that
    `differentiate` makes and in no other, at a quarter of the latents' size if the network attends
    there.

    Attributes:
        images: of the batch, those that are read, in the order of what is read.

    Args:
        guidance: its name, for messages.
        loss: what is differentiated.
        prompts: of each image.
        reads_self: whether the picture's attention to itself is read as well, in the same blocks.

    Raises:
        UserError: the network has no such layers.
    """

    def __init__(
        self,
        guidance: str,
        network: Network,
        loss: AttentionLoss,
        prompts: Sequence[PromptTokens],
        reads_self: bool = False,
    ) -> None:
        self.guidance, self.network, self.loss, self.prompts = guidance, network, loss, prompts
        self.images: Sequence[int] = range(len(prompts))
        factor, layers = find_layers(network, None)
        tokens = [[[place] for place in range(prompt.length)] for prompt in prompts]
        self.cross = ProjectedMaps(layers, tokens, factor)
        self.own = SelfQueries(find_self_attention(guidance, network, layers) if reads_self else [])
        self._is_open = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        layers = [*self.cross.layers, *self.own.layers]
        with ExitStack() as stack:
            stack.enter_context(suspend_compilation(self.network.modules(), layers))
            stack.enter_context(self.cross)
            stack.callback(self.own.detach)
            self.own.attach()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def begin(self, rows: Rows, grid: tuple[int, int]) -> None:
        if self._is_open:
            height, width = (-(-side // self.cross.factor) for side in grid)
            self.cross.listen(rows.cond, (height, width), images=self.images)
            self.own.listen(rows.cond)

    def end(self) -> None:
        if self._is_open:
            self.cross.ignore()
            self.own.ignore()
            if len(self.own.read) != len(self.own.layers):
                raise UserError(
                    f"guidance={self.guidance}: self-attention could not be read, as it does not "
                    "go through to_q and to_k of its layers: give the pipeline as it was loaded"
                )

    def maps(self) -> Tensor:
        """(B, tokens, h, w): the attention of each place to each token, with gradient, of the
        images that are read."""
        return self.cross.maps()

    def self_map(self, row: int, places: Tensor) -> Tensor:
        """(S, P): of a row of what is read the attention of these S places to all, mean over heads
        and layers, with gradient."""
        own = slice(row, row + 1)
        maps = [
            compute_probabilities(layer, query[own, places], key[own])[0]
            for layer, query, key in self.own.read
        ]
        return torch.stack(maps).mean(0)

    def differentiate(
        self,
        moment: Moment,
        x: Tensor,
        images: Sequence[int] | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of each image at x, (B,), and its gradient, (B, C, H, W).

        Args:
            images: those of the batch that x is of, and that alone are evaluated; None: all.
            loss: another one; None: the reader's own.
        """
        with self._open(images):
            return moment.differentiate(x, loss or (lambda: self.loss(self)), images)

    @contextmanager
    def _open(self, images: Sequence[int] | None) -> Iterator[None]:
        everyone, self._is_open = self.images, True
        self.images = everyone if images is None else images
        try:
            yield
        finally:
            self._is_open, self.images = False, everyone
            self.cross.ignore()
            self.own.ignore()
            self.own.read.clear()


class SelfQueries:
    """Keeps queries and keys of self-attention layers, of which a few rows are made afterwards: all
    of them would not fit beside a large network.

    Attributes:
        read: of each layer, with its queries and keys, (B, P, heads d) each.
    """

    def __init__(self, layers: Sequence[Network]) -> None:
        self.layers = list(layers)
        self.read: list[tuple[Network, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []
        self._rows: slice | None = None
        self._query: Tensor | None = None

    def attach(self) -> None:
        """Hook the layers."""
        for layer in self.layers:
            self._handles += self._hook(layer)

    def detach(self) -> None:
        """Leave nothing behind."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.ignore()
        self.read.clear()

    def listen(self, rows: slice) -> None:
        """Read the next evaluation: these rows of its batch."""
        self._rows = rows
        self.read.clear()

    def ignore(self) -> None:
        """Read no further one."""
        self._rows = self._query = None

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        def keep_both(module: nn.Module, args: object, output: Tensor) -> None:
            if self._rows is not None:
                query, key, _ = output[self._rows].chunk(3, dim=-1)
                self.read.append((layer, query, key))

        def keep_query(module: nn.Module, args: object, query: Tensor) -> None:
            self._query = None if self._rows is None else query[self._rows]

        def keep_key(module: nn.Module, args: object, key: Tensor) -> None:
            if self._rows is not None and self._query is not None:
                self.read.append((layer, self._query, key[self._rows]))
                self._query = None

        if layer.fused_projections:
            return [layer.to_qkv.register_forward_hook(keep_both)]
        return [
            layer.to_q.register_forward_hook(keep_query),
            layer.to_k.register_forward_hook(keep_key),
        ]


def find_self_attention(
    guidance: str, network: Network, cross: Sequence[nn.Module]
) -> list[Network]:
    """The self-attention layers of the blocks that have these cross-attention layers.

    Raises:
        UserError: they have none.
    """
    chosen = set(cross)
    layers = [
        block.attn1
        for block in network.modules()
        if getattr(block, "attn2", None) in chosen and not block.attn1.is_cross_attention
    ]
    if not layers:
        raise UserError(
            f"guidance={guidance} reads the picture's attention to itself, which this network has "
            "none of: choose guidance=attend_and_excite"
        )
    return layers


@dataclass(frozen=True)
class Neglect(AttentionLoss):
    """maxₛ (1 - maxₚ Aₛ(p)) over an image's subjects (Attend-and-Excite, arXiv 2301.13826).

    Args:
        padding: whether the softmax is over the tokens behind the words as well.
    """

    prompts: Sequence[PromptTokens]
    padding: bool = False

    def __call__(self, reader: TextReader) -> Tensor:
        return torch.stack(
            [
                1 - excite(own, self.prompts[image], self.padding).flatten(1).amax(1).amin()
                for own, image in zip(reader.maps(), reader.images, strict=True)
            ]
        )


def excite(maps: Tensor, prompt: PromptTokens, padding: bool) -> Tensor:
    """Aₛ, (S, h, w): softmax(100 A) over the tokens of a prompt, the share of each subject's,
    smoothed.

    Args:
        maps: (tokens, h, w), A.
        padding: whether over what is behind the words as well, but for its last token.
    """
    last = prompt.length - 1 if padding else prompt.end
    shares = (SHARPNESS * maps[1:last]).softmax(0)
    subjects = [shares[[place - 1 for place in places]].sum(0) for places in prompt.subjects]
    return smooth(torch.stack(subjects)[None])[0]


@dataclass(frozen=True)
class Misbinding(AttentionLoss):
    """Σ [D(m, n) - ½ (mean_u D(m, u) + mean_u D(n, u))] over an image's pairs of a modifier m and
    its noun n (SynGen, arXiv 2306.08877); u are the prompt's tokens outside their group.

    D is the symmetric Kullback-Leibler divergence of two maps, each divided by its sum over places,
    ½ Σₚ (a - b)(log a - log b); of words of several tokens the largest of theirs.

    Args:
        prompts: of each image.
        groups: of each image; none: its loss is 0.
    """

    prompts: Sequence[PromptTokens]
    groups: Sequence[Sequence[Group]]

    def is_defined(self, image: int) -> bool:
        return bool(self.groups[image])

    def __call__(self, reader: TextReader) -> Tensor:
        rows = zip(reader.maps(), reader.images, strict=True)
        return torch.stack(
            [self._compare(maps, self.prompts[i], self.groups[i]) for maps, i in rows]
        )

    def _compare(self, maps: Tensor, prompt: PromptTokens, groups: Sequence[Group]) -> Tensor:
        words = maps[1 : prompt.end].flatten(1)
        words = words / words.sum(1, keepdim=True)
        total = maps.new_zeros(())
        for group in groups:
            inside = {*group.noun, *(token for word in group.modifiers for token in word)}
            outside = [token for token in range(1, prompt.end) if token not in inside]
            noun = measure_divergence(words, group.noun)
            for modifier in group.modifiers:
                own = measure_divergence(words, modifier)
                total = total + own[[token - 1 for token in group.noun]].amax()
                if outside:
                    others = [token - 1 for token in outside]
                    total = total - (own[others].mean() + noun[others].mean()) / 2
        return total


def measure_divergence(words: Tensor, tokens: Tokens) -> Tensor:
    """(T,): D of a word to each token of the prompt, the largest over its own tokens.

    Args:
        words: (T, P), of each token of the prompt but its start, how its attention is spread.
    """
    logs = words.clamp(min=torch.finfo(words.dtype).eps).log()
    own = [token - 1 for token in tokens]
    apart = (words[own][:, None] - words) * (logs[own][:, None] - logs)
    return apart.sum(-1).amax(0) / 2


@dataclass(frozen=True)
class Scores:
    """Of each image, (B,): how neglected its most neglected subject is, and how much its subjects'
    places attend to the same (InitNO, arXiv 2404.04650)."""

    neglect: Tensor
    conflict: Tensor


def score(reader: TextReader, prompts: Sequence[PromptTokens], padding: bool) -> Scores:
    """Both scores of the images that have been read, with gradient.

    The conflict is the mean over pairs of subjects of Σₚ min(a, b)/Σₚ (a + b), with a and b the
    smoothed attention to the picture of the place where each subject's Aₛ is largest: from 0 to ½.
    """
    neglect, conflict = [], []
    for row, (maps, image) in enumerate(zip(reader.maps(), reader.images, strict=True)):
        subjects = excite(maps, prompts[image], padding)
        most, places = subjects.flatten(1).max(1)
        neglect.append(1 - most.amin())
        own = reader.self_map(row, places).unflatten(1, tuple(subjects.shape[1:]))
        conflict.append(measure_conflict(smooth(own[None])[0]))
    return Scores(torch.stack(neglect), torch.stack(conflict))


def measure_conflict(maps: Tensor) -> Tensor:
    """Mean over pairs of maps (S, h, w) of Σ min(a, b)/Σ (a + b); of a single one 0."""
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    shares = [torch.minimum(a, b).sum() / (a + b).sum() for a, b in pairs]
    return torch.stack(shares).mean() if shares else 0 * maps.sum()
