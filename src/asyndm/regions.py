"""Regions of attention maps and of pictures: found, grown, chosen, and laid on the token grid. All
in tensors, so that a device never waits for the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndm.layouts import Box, find_places

if TYPE_CHECKING:
    from asyndm.scene import Scene

LEAST = 1e-12
"""What a mean of attention counts at the least, where it is divided by."""


def binarise(maps: Tensor, threshold: float, scene: Scene, cells: int = 0) -> Tensor:
    """Weights 0 or 1 (B, S, H, W): map >= threshold · its mean over the image, grown by so many
    cells, repeated to the token grid."""
    maps = maps.double()
    is_high = maps >= threshold * maps.mean((-2, -1), keepdim=True)
    chosen = is_high & scene.present[:, :, None, None]
    return repeat(grow(chosen.double(), cells), scene.size)


def repeat(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights (B, S, h, w) on a finer grid (B, S, H, W), by nearest."""
    height, width = size
    scale = -(-height // weights.shape[-2])
    fine = weights.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    return fine[..., :height, :width]


def grow(weights: Tensor, cells: int) -> Tensor:
    """The largest weight within so many cells of each, diagonals among them."""
    return F.max_pool2d(weights, 2 * cells + 1, 1, cells) if cells else weights


def label_regions(chosen: Tensor) -> Tensor:
    """Which region each cell is of: (B, S, h, w) int64, 0 where not chosen, else a number that all
    cells of its region share, and no others of the map. Cells touch at sides and corners."""
    height, width = chosen.shape[-2:]
    places = torch.arange(1, height * width + 1, device=chosen.device).view(height, width)
    labels = places.float() * chosen
    # No shortest way has more than 2 cells in a square of 2 x 2, where all touch each other.
    for _ in range(2 * -(-height // 2) * -(-width // 2) - 1):
        labels = F.max_pool2d(labels, 3, 1, 1) * chosen
    return labels.long()


def keep_strongest(chosen: Tensor, maps: Tensor, counts: Tensor) -> Tensor:
    """Of each mask (B, S, h, w) the `counts` (B, S) regions in which the maps sum up to most."""
    labels = label_regions(chosen).flatten(2)
    sums = maps.new_zeros(*labels.shape[:2], labels.shape[2] + 1)
    sums.scatter_add_(2, labels, maps.flatten(2))
    sums[..., 0] = 0  # what is of no region
    rank = sums.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    kept = (rank < counts[..., None]) & (sums > 0)
    return kept.gather(2, labels).view_as(chosen)


def choose_things(
    maps: Tensor, scene: Scene, threshold: float, cells: int, next_best: bool
) -> Tensor:
    """The regions of each subject (B, S, h, w), as bool: of those where its map is at least
    threshold · its mean, and further above its mean than any other subject's, the `scene.counts`
    strongest.

    Args:
        cells: by how many the regions will be grown.
        next_best: a subject loses what is left of a region at whose peak another one is stronger;
            one without any region then seeks among the cells beside all that are taken, where its
            mean is that of these.
    """
    maps, counts = maps.double(), scene.counts
    place = torch.arange(maps.shape[1], device=maps.device)[:, None, None]
    kept = torch.zeros_like(maps, dtype=torch.bool)
    # In each round the strongest of those that seek finds a region, if there is one for any.
    for _ in range(maps.shape[1] if next_best else 1):
        seeks = scene.present & ~kept.flatten(2).any(-1)
        free = grow(kept.any(1, keepdim=True).double(), cells + 1) == 0
        mean = (maps * free).sum((-2, -1), keepdim=True) / free.sum((-2, -1), keepdim=True)
        relative = maps / mean.clamp_min(LEAST)
        relative = relative.where(free & seeks[:, :, None, None], -1.0)
        high = relative >= threshold
        chosen = high & (relative.argmax(1, keepdim=True) == place)
        if next_best:
            chosen &= _hold_peaks(high, chosen, relative)
        kept |= keep_strongest(chosen, maps, counts)
    return kept


def _hold_peaks(high: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
    """The regions of `high`, of those whose largest value is also chosen."""
    labels = label_regions(high).flatten(2)
    none = values.new_zeros(*labels.shape[:2], labels.shape[2] + 1)
    peaks, own = (
        none.scatter_reduce(2, labels, values.where(where, 0.0).flatten(2), "amax")
        for where in (high, chosen)
    )
    return (own >= peaks).gather(2, labels).view_as(high) & high


def cover(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """How much of each cell (H, W) lies in a box (x0, y0, x1, y1), of a picture from 0 to 1; of
    several boxes the most."""

    def along(low: float, high: float, count: int) -> Tensor:
        edges = torch.arange(count + 1, dtype=torch.float64)
        ends, begins = edges[1:].clamp(max=high * count), edges[:-1].clamp(min=low * count)
        return (ends - begins).clamp(min=0)

    height, width = size
    planes = [
        along(y0, y1, height)[:, None] * along(x0, x1, width)[None] for x0, y0, x1, y1 in boxes
    ]
    return torch.stack(planes).amax(0)


def lay(planes: Mapping[str, Tensor], scene: Scene, image: int) -> Tensor:
    """The weights (S, H, W) of an image, from a plane (H, W) for each of some subjects.

    Raises:
        UserError: one that the image does not have.
    """
    weights = scene.weights(0.0)[image]
    subjects = scene.subjects[image] if scene.subjects else ()
    for place, plane in zip(find_places(planes, subjects), planes.values(), strict=True):
        weights[place] = plane.to(weights.device)
    return weights
