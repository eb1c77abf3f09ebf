"""Reading attention maps off a stock network beside its own attention, which runs untouched."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.errors import UserError, is_whole
from asyndm.hooks import Hooks, Watch
from asyndm.levels import put_numbers
from asyndm.protocols import Network

PREFERRED_FACTOR = 4
ROOM = 8
"""Subjects, of which there is room for a multiple in the graph of a compiled network."""
KEYS = ("joint", "text")
PARTS = ("both", "clip", "t5")
Tokens = Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Reading:
    """Which attention a mask is made of. What does not concern a network is not asked.

    Args:
        factor: of a UNet, latent size over map size; None: 4 if it attends there, else the finest
            there is.
        layers: of a transformer, which of its blocks that attend to text, counted from 0; None: the
            middle third of those where text and image attend together, all where there is true
            cross-attention.
        keys: of joint attention: "joint" is the share among all keys, "text" among the text's
            alone.
        text: where a prompt is read by CLIP and T5 side by side (SD3): the tokens of "both", "clip"
            or "t5".
    """

    factor: int | None = None
    layers: Sequence[int] | None = None
    keys: str = "joint"
    text: str = "both"

    def __post_init__(self) -> None:
        if self.factor is not None and not is_whole(self.factor):
            raise UserError(f"attention_factor must be a whole number or None, got {self.factor!r}")
        listed = self.layers is None or isinstance(self.layers, (list, tuple))
        if not listed or not all(map(is_whole, self.layers or ())) or self.layers in ([], ()):
            raise UserError(
                f"attention_layers must be a list of whole numbers or None, got {self.layers!r}"
            )
        for setting, value, choices in (
            ("attention_keys", self.keys, KEYS),
            ("attention_text", self.text, PARTS),
        ):
            if value not in choices:
                raise UserError(f"{setting} must be one of {', '.join(choices)}, got {value!r}")

    def choose(self, layers: Sequence[nn.Module], default: slice) -> list[nn.Module]:
        """The layers asked for, else those of the slice.

        Raises:
            UserError: the network has no such layer.
        """
        if self.layers is None:
            return list(layers[default])
        if wrong := [i for i in self.layers if not 0 <= i < len(layers)]:
            raise UserError(
                f"attention_layers: the network has layers 0 to {len(layers) - 1}, not {wrong[0]}"
            )
        return [layers[i] for i in self.layers]


class AttentionMaps(Hooks):
    """Where each subject's words are attended to, while the context lasts.

    The map of a subject is softmax(QKᵀ/√d) at its token positions, averaged over those tokens, over
    the heads and over the layers read. `listen` says which rows of the network's next batch are
    read; nothing is read until then.

    Args:
        layers: the network's attention layers.
        tokens: for each image, for each of its subjects, the positions of its tokens in the text,
            or less than 0 and counted from its end; a subject without any has a zero map.
    """

    def __init__(self, layers: Sequence[nn.Module], tokens: Tokens) -> None:
        super().__init__()
        self.layers = list(layers)
        self.tokens = tokens
        self._rows: slice | None = None
        self._grid = (0, 0)
        self._lengths: int | Sequence[int] | None = None
        self._images: Sequence[int] | None = None
        self._shares: list[Tensor] = []
        self._made: dict[object, Tensor] = {}
        self._prepared: Tensor | None = None

    def _attach(self) -> Iterator[RemovableHandle]:
        for layer in self.layers:
            yield from self._hook(layer)

    def _forget(self) -> None:
        self.ignore()
        self._made.clear()
        self._prepared = None

    def listen(
        self,
        rows: slice,
        grid: tuple[int, int],
        lengths: int | Sequence[int] | None = None,
        images: Sequence[int] | None = None,
    ) -> None:
        """Read the next evaluation: these rows of its batch, one for each image, as maps of this
        size.

        Args:
            lengths: of the text in joint sequences, or of each row of the batch where each has its
                own; None: all that is not image.
            images: those that the rows are of; None: all.
        """
        self._rows, self._grid, self._lengths, self._images = rows, grid, lengths, images
        self._shares.clear()
        self._prepared = None

    def prepare(self, length: int, device: torch.device) -> None:
        """Make, before a network runs that is compiled, what its graph takes of the subjects: a
        tensor of the same size for any prompt, so that none of them is another graph.

        Args:
            length: of the text that is attended to.
        """
        weights = self._weights(length, device)
        self._prepared = F.pad(weights, (0, -weights.shape[-1] % ROOM))

    def ignore(self) -> None:
        """Read no further evaluation; what has been read is kept."""
        self._rows = None

    def maps(self) -> Tensor:
        """The maps of the evaluation listened to: (B, S, h, w), float32, differentiable.

        S is the largest number of subjects in the batch; images with fewer have zero maps at the
        end.

        Raises:
            UserError: nothing was read.
        """
        if not self._shares:
            raise UserError(
                "no attention map was read: the network's attention does not go through torch's "
                "scaled_dot_product_attention (use pipe's default attention backend), "
                "or is compiled"
            )
        mean = torch.stack(self._shares).mean(0)[..., : max(map(len, self.tokens))]
        return mean.transpose(1, 2).reshape(mean.shape[0], -1, *self._grid)

    def _weights(
        self, length: int, device: torch.device, own: Sequence[int] | None = None
    ) -> Tensor:
        """(B, length, S): 1/n at each of a subject's n token positions, so that a product is a
        mean.

        Made once and kept: each copy to a GPU waits until that has done all it was given.

        Args:
            own: how many of them are each image's own text; None: all.
        """
        if self._prepared is not None:
            if self._prepared.shape[1] != length:
                raise UserError(
                    f"the text has {length} tokens in the network's attention, and "
                    f"{self._prepared.shape[1]} in its call: give the network uncompiled"
                )
            return self._prepared
        read = range(len(self.tokens)) if self._images is None else self._images
        kind = length, device, own if own is None else tuple(own), tuple(read)
        if kind not in self._made:
            self._made[kind] = self._make_weights(length, read, own).to(device)
        return self._made[kind]

    def _make_weights(self, length: int, read: Sequence[int], own: Sequence[int] | None) -> Tensor:
        weights = torch.zeros(len(read), length, max(map(len, self.tokens)))
        for image, subjects in enumerate(self.tokens[place] for place in read):
            end = length if own is None else own[image]
            for subject, positions in enumerate(subjects):
                if max(positions, default=0) >= end or min(positions, default=0) < -end:
                    raise UserError(
                        f"subject {subject + 1} of image {image + 1} has token positions "
                        f"{list(positions)}, but the text has {end} tokens"
                    )
                chosen = [token % end for token in positions]
                weights[image, chosen, subject] = 1 / max(1, len(positions))
        return weights

    @abstractmethod
    def _hook(self, layer: nn.Module) -> list[RemovableHandle]: ...


class ProjectedMaps(AttentionMaps):
    """From the outputs of ``to_q`` and ``to_k`` of cross-attention layers: whatever processor they
    run.

    Args:
        factor: latent size over map size.
    """

    def __init__(self, layers: Sequence[nn.Module], tokens: Tokens, factor: int = 1) -> None:
        super().__init__(layers, tokens)
        self.factor = factor
        self._query: Tensor | None = None

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        key = layer.to_kv if layer.fused_projections else layer.to_k

        def read_query(module: nn.Module, args: object, query: Tensor) -> None:
            self._query = None if self._rows is None else query[self._rows]

        def read_key(module: nn.Module, args: object, key: Tensor) -> None:
            if self._rows is not None and self._query is not None:
                key = key.chunk(2, dim=-1)[0] if layer.fused_projections else key
                self._shares.append(self._share(layer, self._query, key[self._rows]))
                self._query = None

        return [layer.to_q.register_forward_hook(read_query), key.register_forward_hook(read_key)]

    def _share(self, layer: Network, query: Tensor, key: Tensor) -> Tensor:
        """(B, P, S): each subject's share of the attention of each of the P map pixels, mean over
        heads."""
        query, key = (x.view(*x.shape[:2], layer.heads, -1).transpose(1, 2) for x in (query, key))
        if layer.norm_q is not None:
            query = layer.norm_q(query)
        if layer.norm_k is not None:
            key = layer.norm_k(key)
        scale = query.shape[-1] ** -0.5
        scores = (widen(query) * scale) @ widen(key).transpose(-1, -2)
        share: Tensor = scores.softmax(dim=-1).mean(dim=1)
        return share @ self._weights(share.shape[-1], share.device).to(share.dtype)


class FusedMaps(AttentionMaps):
    """From the arguments of ``scaled_dot_product_attention`` as each layer first calls it: normed
    and rotated as they are, whatever the architecture.

    One more call of the kernel, whose values are the subjects' indicators, gives each subject's
    share; the N x (N+L) probabilities are never formed.

    Args:
        text_first: of joint sequences, whether text comes before image; None: keys are text alone.
        keys: "joint" or "text", see `Reading`.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        tokens: Tokens,
        text_first: bool | None = None,
        keys: str = "joint",
    ) -> None:
        super().__init__(layers, tokens)
        self.text_first, self.keys = text_first, keys
        self._watches: list[_Watch] = []

    def _forget(self) -> None:
        super()._forget()
        while self._watches:  # Ctrl-C passes by the hook that ends one
            self._watches.pop().end()

    def _hook(self, layer: nn.Module) -> list[RemovableHandle]:
        watch = _Watch(self)
        self._watches.append(watch)

        def enter(module: nn.Module, args: object, kwargs: object = None) -> None:
            if self._rows is not None:
                watch.begin()

        def leave(module: nn.Module, args: object, output: object) -> None:
            watch.end()

        return [
            layer.register_forward_pre_hook(enter),
            layer.register_forward_hook(leave, always_call=True),
        ]

    def read_call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Of a call of ``scaled_dot_product_attention``, of which it takes the arguments."""
        kept = {name: kwargs[name] for name in ("scale", "enable_gqa") if name in kwargs}
        self.read(query, key, attn_mask, **kept)

    def read(self, query: Tensor, key: Tensor, mask: Tensor | None, **settings: Any) -> None:
        """Keep the subjects' share of this attention: (B, heads, length, d) each; settings are the
        kernel's."""
        assert self._rows is not None
        n = self._grid[0] * self._grid[1]
        query, key = query[self._rows], key[self._rows]
        mask = mask[self._rows] if mask is not None and mask.ndim == 4 and len(mask) > 1 else mask
        if self.text_first is None:
            values = self._weights(key.shape[2], query.device)
        else:
            lengths = self._text_lengths(key.shape[2] - n)
            own, length = lengths[self._rows], max(lengths)
            start = 0 if self.text_first else key.shape[2] - length
            values = self._weights(length, query.device, own)
            query, mask = _take_image_rows(query, mask, n, own if self.text_first else [0])
            if self.keys == "text":
                text = slice(start, start + length)
                key, mask = key[:, :, text], None if mask is None else mask[..., text]
                mask = mask if min(own) == length else _hide_padding(own, mask, key)
            else:
                values = F.pad(values, (0, 0, start, key.shape[2] - length - start))
        S, d = values.shape[-1], query.shape[-1]
        values = (
            F.pad(values, (0, max(0, d - S)))
            .to(query.dtype)[:, None]
            .expand(-1, key.shape[1], -1, -1)
        )
        share = F.scaled_dot_product_attention(query, key, values, attn_mask=mask, **settings)
        self._shares.append(share[..., :S].float().mean(1))

    def _text_lengths(self, beside: int) -> list[int]:
        """Of each row of the network's batch, where ``beside`` tokens stand beside the image's."""
        lengths = beside if self._lengths is None else self._lengths
        assert self._rows is not None
        return [lengths] * self._rows.stop if isinstance(lengths, int) else list(lengths)


def widen(values: Tensor) -> Tensor:
    """In float32, or as they are where they have more digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _take_image_rows(
    query: Tensor, mask: Tensor | None, n: int, starts: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """The queries of the n image tokens of each sequence, and their part of a mask, from where they
    start in it."""
    whole = mask is None or mask.shape[-2] == 1
    if len(set(starts)) == 1:
        image = slice(starts[0], starts[0] + n)
        return query[:, :, image], mask if mask is None or whole else mask[..., image, :]
    first = put_numbers(starts, query.device)[:, None]
    places = (first + torch.arange(n, device=query.device))[:, None, :, None]
    if mask is not None and not whole:
        mask = torch.take_along_dim(mask if mask.ndim == 4 else mask[None, None], places, -2)
    return torch.take_along_dim(query, places, -2), mask


def _hide_padding(own: Sequence[int], mask: Tensor | None, key: Tensor) -> Tensor:
    """A mask that hides the keys beyond each image's own text as well."""
    inside = torch.arange(key.shape[2], device=key.device) < put_numbers(own, key.device)[:, None]
    inside = inside[:, None, None]
    if mask is None:
        return inside
    return inside & mask if mask.dtype == torch.bool else mask.masked_fill(~inside, -torch.inf)


class _Watch(Watch):
    """Hands the first attention inside one layer to its reader."""

    def __init__(self, reader: FusedMaps) -> None:
        super().__init__()
        self._reader = reader

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.waiting and func is F.scaled_dot_product_attention:
            self.waiting = False
            self._reader.read_call(*args, **kwargs)
        return func(*args, **kwargs)
