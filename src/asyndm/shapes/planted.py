"""An oracle of the shapes world: masks of where a right picture of a prompt has its objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_flag
from asyndm.masks import Mask
from asyndm.scene import Scene
from asyndm.shapes.world import SPLITS, Spec, index_specs, take_turns
from asyndm.subjects import Subject

if TYPE_CHECKING:
    from torch import Tensor

LAYOUTS = ("own", "another")
"""Whose layout is planted: that of the prompt, or of another one."""


@dataclass(frozen=True)
class PlantedMask(Mask):
    """The objects of a layout that the renderer draws for the prompt, the right number in the right
    relation and place, held fixed. They are as in training on mixed noise levels,
    `asyndm.shapes.render.mark_objects`, on the curve of the subject with the largest ω.

    The layout is a function of prompt and seed alone.

    Args:
        layout_of: "own", or "another": of the prompt that `find_other` says, with the same seed.
        ahead: the other way round: all else is on the curve, and the objects run ahead.
        asked: the meaning and the seed of each image, which `prepare` finds.
    """

    layout_of: str = "own"
    ahead: bool = False
    asked: tuple[tuple[Spec, int], ...] = field(default=(), repr=False)

    label = "AsynDM_planted"

    def __post_init__(self) -> None:
        if self.layout_of not in LAYOUTS:
            raise UserError(
                f"mask layout_of must be one of {', '.join(LAYOUTS)}, got {self.layout_of!r}"
            )
        check_flag(self.ahead, "mask ahead")

    def prepare(self, prompts: Sequence[str], seeds: Sequence[int]) -> PlantedMask:
        known = index_specs()
        if strange := [prompt for prompt in prompts if prompt not in known]:
            raise UserError(
                f"mask {self.name!r}: {strange[0]!r} is not a prompt of the shapes world, whose "
                "renderer draws the layouts"
            )
        specs = [known[prompt] for prompt in prompts]
        return replace(self, asked=tuple(zip(specs, seeds, strict=True)))

    def select(self, images: range, count: int) -> PlantedMask:
        return replace(self, asked=self.asked[images.start : images.stop])

    def check(self, subjects: Sequence[Sequence[Subject]]) -> None:
        if len(self.asked) != len(subjects):
            raise UserError(
                f"mask {self.name!r} needs the prompt and the seed of each image: use "
                "asyndm.sample, which is told them"
            )

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        import torch

        others = self.layout_of == "another"
        marked = torch.stack(
            [
                _plant(find_other(spec) if others else spec, seed, scene.size)
                for spec, seed in self.asked
            ]
        )
        weights = scene.weights(1.0)
        return weights * (marked ^ self.ahead)[:, None].to(weights)


def find_other(spec: Spec) -> Spec:
    """The prompt whose layout stands for another one: the next of the split, where the kinds take
    turns, and after the last one the first. So each prompt of a split is the other of one."""
    return _list_others()[spec.digest]


@cache
def _list_others() -> dict[str, Spec]:
    rings = [take_turns(split) for split in SPLITS]
    return {spec.digest: other for ring in rings for spec, other in pairwise([*ring, ring[0]])}


def _plant(spec: Spec, seed: int, size: tuple[int, int]) -> Tensor:
    """Where a picture of this meaning has its objects, (H, W) bool."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from asyndm.shapes.render import mark_objects, render

    digest = hashlib.sha256(f"{spec.digest} {seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]))
    things = render([spec], generator).gather_things()
    return mark_objects(adaptive_avg_pool2d(things, size))[0]
