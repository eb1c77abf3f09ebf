"""Noise levels of training pictures: one for a whole picture or, in a share of them, several, over
the objects' true regions or over any regions.

Each way is a function of `regions` (B, K, h, w), the share of each latent pixel that each thing of
the prompt covers. It returns the timestep of each latent pixel, (B, h, w) long.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.shapes.render import mark_objects
from experiments.training.shapes.settings import Slow

Draw = Callable[[Tensor, float, int, torch.Generator], Tensor]
Part = Callable[[Tensor, torch.Generator], Tensor]

REACH = 175.0
"""Timesteps by which a region's level is at most away from that of its picture, where regions are
any: two regions are up to 350 apart, as objects and a cleaner background are."""
MOST_BLOBS = 3
RADII = (1.95, 3.25)
"""Smallest and largest radius of a blob in latent pixels, which are those of objects."""


def draw_slow_objects(
    regions: Tensor, mixed: float, timesteps: int, generator: torch.Generator
) -> Tensor:
    """A mixed picture has its objects at its level and a background up to 350 steps cleaner (or,
    rarely, up to 100 noisier), over the objects' true regions."""
    count = len(regions)
    level = _draw_levels(count, timesteps, generator)
    gap = torch.rand(count, generator=generator) * 450 - 350
    gap = torch.where(torch.rand(count, generator=generator) < mixed, gap, torch.zeros(()))
    both = torch.stack([level + gap, level], 1).long().clamp(0, timesteps - 1)
    return _spread(both, mark_objects(regions).long())


def draw_slow_anything(
    regions: Tensor, mixed: float, timesteps: int, generator: torch.Generator
) -> Tensor:
    """A mixed picture is parted in one of the ways of `PARTS`, each as often as the others. Every
    part, also what is left of the picture, has a level of its own up to `REACH` steps from the
    picture's: which is the noisier one says nothing, and gaps of both signs are alike."""
    count, things = regions.shape[:2]
    level = _draw_levels(count, timesteps, generator)
    away = (torch.rand(count, 1 + things, generator=generator) * 2 - 1) * REACH
    is_mixed = torch.rand(count, 1, generator=generator) < mixed
    levels = level[:, None] + torch.where(is_mixed, away, torch.zeros(()))
    return _spread(levels.long().clamp(0, timesteps - 1), draw_parts(regions, generator))


DRAWS: dict[Slow, Draw] = {
    Slow.objects: draw_slow_objects,
    Slow.anything: draw_slow_anything,
}
"""What a recipe chooses from by its `slow`."""


def _draw_levels(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """(count,), u^0.75 of the timesteps with u stratified over the batch: a little denser where
    noise is strong and layouts are decided."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return share**0.75 * timesteps


def _spread(levels: Tensor, parts: Tensor) -> Tensor:
    """The level of each pixel: levels (B, L) of the parts (B, h, w) by their numbers."""
    return levels.gather(1, parts.flatten(1)).view_as(parts)


def draw_parts(regions: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture parted in one of the ways of `PARTS`: (B, h, w) long, 0 for what is in no
    region, else the region's number, up to K."""
    chosen = torch.randint(len(PARTS), (len(regions),), generator=generator)
    drawn = torch.stack([part(regions, generator) for part in PARTS])
    return drawn[chosen, torch.arange(len(regions))]


def part_blobs(regions: Tensor, generator: torch.Generator) -> Tensor:
    """Blobs in one region, wherever the objects are."""
    return mark_objects(_draw_blobs(regions, generator)).long()


def part_some(regions: Tensor, generator: torch.Generator) -> Tensor:
    """One or more of the things in one region, and one or more left out; where there is one alone,
    it is left out."""
    present = regions.amax((2, 3)) > 0
    others = present.sum(1) - 1
    draw = torch.rand(len(regions), generator=generator)
    kept = (1 + (draw * others).floor()).minimum(others)
    order = torch.rand(present.shape, generator=generator).masked_fill(~present, 2.0)
    is_kept = order.argsort(1).argsort(1) < kept[:, None]
    return mark_objects(regions * is_kept[..., None, None]).long()


def part_spare(regions: Tensor, generator: torch.Generator) -> Tensor:
    """All the objects and blobs beside them in one region."""
    return mark_objects(torch.cat([regions, _draw_blobs(regions, generator)], 1)).long()


def part_each(regions: Tensor, generator: torch.Generator) -> Tensor:
    """A region for each thing; a pixel near two of them is of the one that covers more there."""
    nearest = F.max_pool2d(regions, 3, 1, 1).argmax(1) + 1
    return torch.where(mark_objects(regions), nearest, 0)


PARTS: tuple[Part, ...] = (part_blobs, part_some, part_spare, part_each)
"""The ways in which a picture is parted where any region may be slow."""


def _draw_blobs(regions: Tensor, generator: torch.Generator) -> Tensor:
    """Coverage of one to three discs of the size of objects, anywhere: (B, 3, h, w)."""
    count, (height, width) = len(regions), regions.shape[-2:]
    draw = torch.rand(3, count, MOST_BLOBS, 1, 1, generator=generator)
    radius = RADII[0] + (RADII[1] - RADII[0]) * draw[2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = ((y + 0.5 - height * draw[0]) ** 2 + (x + 0.5 - width * draw[1]) ** 2).sqrt()
    many = torch.randint(MOST_BLOBS, (count, 1), generator=generator)
    is_drawn = torch.arange(MOST_BLOBS) <= many
    return (radius + 0.5 - distance).clamp(0, 1) * is_drawn[..., None, None]
