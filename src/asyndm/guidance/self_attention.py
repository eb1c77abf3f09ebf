"""Which word each place of a picture belongs to, read off a UNet's attention to text and to
itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.attention import widen
from asyndm.errors import UserError
from asyndm.guidance.base import Rows
from asyndm.hooks import Hooks
from asyndm.networks.unet import find_cross_attention
from asyndm.protocols import Network

FACTORS = (4, 8)
"""Latent size over map size of the layers that are read, where the network has them."""
REACH = 4
"""How often attention is followed to further places."""


class RegionReader(Hooks):
    """Reads an evaluation's attention probabilities, mean over heads, as the layers run.

    A layer's map of text token k at place p is (Ā C)ₚₖ, with C the attention to the text and Ā that
    to the picture, followed several times. Maps are brought to the finest layers' size, smoothed
    and divided by their mean over the picture; then comes their sum over layers.

    Args:
        blocks: transformer blocks by factor, latent size over map size.
        exact_powers: Ā = (A + A² + A³ + A⁴)/4; False: (A + 3 A²)/4.
    """

    def __init__(self, blocks: Mapping[int, Sequence[Network]], exact_powers: bool = False) -> None:
        super().__init__()
        self.blocks, self.exact_powers = blocks, exact_powers
        self.factor = min(blocks)
        self._rows = Rows(slice(0, 0))
        self._grid = (0, 0)
        self._query: Tensor | None = None
        self._own: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._read = 0

    def _attach(self) -> Iterator[RemovableHandle]:
        for factor, blocks in self.blocks.items():
            for block in blocks:
                yield from self._hook(block, factor)

    def _forget(self) -> None:
        self._query = None
        self._own.clear()
        self._sums.clear()

    def begin(self, rows: Rows, grid: tuple[int, int]) -> None:
        self._rows, self._grid, self._read = rows, grid, 0
        self._own.clear()
        for name in self._list_rows():
            self._sums.pop(name, None)

    def end(self) -> None:
        if self._read != sum(map(len, self.blocks.values())):
            raise UserError(
                "guidance=s_cfg: attention could not be read, as it does not go through to_q and "
                "to_k of its layers (are they compiled?): give the pipeline as it was loaded"
            )

    @property
    def tokens(self) -> int:
        """How many tokens a text has."""
        return self._sums["cond"].shape[1]

    def find_regions(self) -> Tensor:
        """(B, h, w) int64: the token whose map is largest, of all there are, under the prompt."""
        return self._sums["cond"].argmax(1)

    def find_foreground(self) -> Tensor:
        """(B, h, w) bool: where without the prompt all other tokens together outweigh the first."""
        first, others = self._sums["uncond"].unbind(1)
        return others > first

    def _list_rows(self) -> dict[str, slice]:
        cond, uncond = self._rows.cond, self._rows.uncond
        rows = {"cond": cond} if cond.stop > cond.start else {}
        return rows if uncond is None else {**rows, "uncond": uncond}

    def _hook(self, block: Network, factor: int) -> list[RemovableHandle]:
        own, cross = block.attn1, block.attn2

        def read_query(module: nn.Module, args: object, query: Tensor) -> None:
            self._query = query

        def read_own_key(module: nn.Module, args: object, key: Tensor) -> None:
            self._keep_own(own, key)

        def read_own_parts(module: nn.Module, args: object, parts: Tensor) -> None:
            self._query, key, _ = parts.chunk(3, dim=-1)
            self._keep_own(own, key)

        def read_key(module: nn.Module, args: object, key: Tensor) -> None:
            self._keep_shares(cross, key, factor)

        def read_parts(module: nn.Module, args: object, parts: Tensor) -> None:
            self._keep_shares(cross, parts.chunk(2, dim=-1)[0], factor)

        # A layer that says it is fused may have been taken apart again: whichever runs is read.
        fused = [(own, "to_qkv", read_own_parts), (cross, "to_kv", read_parts)]
        return [
            own.to_q.register_forward_hook(read_query),
            own.to_k.register_forward_hook(read_own_key),
            cross.to_q.register_forward_hook(read_query),
            cross.to_k.register_forward_hook(read_key),
            *(
                getattr(layer, name).register_forward_hook(hook)
                for layer, name, hook in fused
                if layer.fused_projections
            ),
        ]

    def _keep_own(self, layer: Network, key: Tensor) -> None:
        assert self._query is not None
        for name, rows in self._list_rows().items():
            self._own[name] = compute_probabilities(layer, self._query[rows], key[rows])
        self._query = None

    def _keep_shares(self, layer: Network, key: Tensor, factor: int) -> None:
        assert self._query is not None
        for name, rows in self._list_rows().items():
            shares = compute_probabilities(layer, self._query[rows], key[rows])
            if name == "uncond":
                shares = torch.stack([shares[..., 0], shares[..., 1:].sum(-1)], -1)
            self._add(name, spread(self._own[name], shares, self.exact_powers), factor)
        self._query, self._read = None, self._read + 1
        self._own.clear()

    def _add(self, name: str, shares: Tensor, factor: int) -> None:
        """A layer's maps (B, P, T), to the sum."""
        maps = shares.transpose(1, 2).unflatten(2, self._size(factor))
        maps = F.interpolate(maps, self._size(self.factor), mode="bilinear")
        maps = smooth(maps)
        maps = maps / (maps.mean((2, 3), keepdim=True) + 1e-8)
        self._sums[name] = self._sums[name] + maps if name in self._sums else maps

    def _size(self, factor: int) -> tuple[int, int]:
        return -(-self._grid[0] // factor), -(-self._grid[1] // factor)


def find_blocks(unet: Network) -> dict[int, list[Network]]:
    """Transformer blocks that attend to the picture and to text, by factor: those of `FACTORS` that
    there are, else the coarsest.

    Raises:
        UserError: there are none.
    """
    whole = {
        block.attn2: block
        for block in unet.modules()
        if getattr(block, "attn2", None) is not None and not block.attn1.is_cross_attention
    }
    blocks = {
        factor: [whole[layer] for layer in layers if layer in whole]
        for factor, layers in find_cross_attention(unet).items()
    }
    there = [factor for factor, found in blocks.items() if found]
    if not there:
        raise UserError(
            "guidance=s_cfg: the network has no block that attends to the picture and to text: "
            "choose guidance=cfg"
        )
    chosen = [factor for factor in FACTORS if factor in there] or [max(there)]
    return {factor: blocks[factor] for factor in chosen}


def compute_probabilities(layer: Network, query: Tensor, key: Tensor) -> Tensor:
    """softmax(QKᵀ/√d), mean over heads: (B, P, K), of (B, P, heads d) and (B, K, heads d).
    Head by head, as all at once would not fit beside a large network."""
    query, key = (each.unflatten(2, (layer.heads, -1)) for each in (query, key))
    if layer.norm_q is not None:
        query = layer.norm_q(query)
    if layer.norm_k is not None:
        key = layer.norm_k(key)
    scale = query.shape[-1] ** -0.5
    total: Tensor | None = None
    for i in range(layer.heads):
        scores = (widen(query[:, :, i]) * scale) @ widen(key[:, :, i]).transpose(1, 2)
        share = scores.softmax(-1)
        total = share if total is None else total + share
    assert total is not None
    mean: Tensor = total / layer.heads
    return mean


def spread(own: Tensor, shares: Tensor, exact_powers: bool) -> Tensor:
    """Ā C, (B, P, T): of A (B, P, P) and C (B, P, T)."""
    followed = own @ shares
    total = followed
    for _ in range(REACH - 1 if exact_powers else 1):
        followed = own @ followed
        total = total + (followed if exact_powers else (REACH - 1) * followed)
    return total / REACH


def smooth(maps: Tensor) -> Tensor:
    """(B, C, H, W) under a Gaussian of 3x3 places, σ = 1/√2, reflected at the border."""
    weight = math.exp(-1)
    alone = min(maps.shape[2:]) == 1  # nothing to reflect
    maps = F.pad(maps, (1, 1, 1, 1), mode="replicate" if alone else "reflect")
    maps = maps[..., 1:-1] + weight * (maps[..., :-2] + maps[..., 2:])
    maps = maps[..., 1:-1, :] + weight * (maps[..., :-2, :] + maps[..., 2:, :])
    return maps / (1 + 2 * weight) ** 2


def compute_rate(
    norm: Tensor, regions: Tensor, foreground: Tensor, tokens: int, factor: int
) -> Tensor:
    """Of each pixel N_F/N_k: the mean norm in the foreground by that in its own region k; 1 in a
    picture without foreground, and where the region's is 0.

    Args:
        norm: (B, 1, H, W).
        regions: (B, h, w) int64, k.
        foreground: (B, h, w) bool.
        tokens: how many regions there may be.
        factor: how many pixels each place has in height and in width.

    Returns:
        (B, 1, H, W).
    """
    size = norm.shape[-2:]
    owner = enlarge(regions, factor, size).flatten(1)
    inside = enlarge(foreground, factor, size).flatten(1)
    flat = norm.flatten(1)
    # A product rather than scatter_add, whose order of summation differs from run to run on GPUs.
    is_owned = F.one_hot(owner, tokens).to(flat.dtype)
    counts, sums = is_owned.sum(1), (flat[:, None] @ is_owned)[:, 0]
    means = (sums / counts.clamp(min=1)).gather(1, owner)
    front = (flat * inside).sum(1) / inside.sum(1).clamp(min=1)
    known = inside.any(1)[:, None] & (means > 0)
    return (front[:, None] / means).where(known, 1.0).view(norm.shape)


def enlarge(places: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """(B, h, w) -> (B, H, W): each place's value on all its pixels."""
    large = places.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    return large[..., : size[0], : size[1]]
