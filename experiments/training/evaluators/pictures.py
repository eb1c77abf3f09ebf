"""Pictures of the shapes world with what is true and what is false of each, to train evaluators
on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice, product

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from asyndm.protocols import Network
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.render import Picture, render
from asyndm.shapes.world import (
    COLOURS,
    COUNTS,
    KINDS,
    PLAIN,
    SHAPES,
    SPLITS,
    TEXTURES,
    Spec,
    Thing,
    prompts,
)
from experiments.training.evaluators.near_misses import make_near_miss
from experiments.training.shapes.autoencoder import reconstruct
from experiments.training.shapes.dataset import draw_specs, pick

SHARES = {
    "one": 0.06,
    "two": 0.16,
    "three": 0.2,
    "count": 0.18,
    "relation": 0.16,
    "background": 0.06,
    "texture": 0.1,
    "scene": 0.08,
}
"""How often each kind of prompt is drawn."""
PATCH = 8
CONTENTS = (
    *(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)),
    *PLAIN,
    *TEXTURES,
    "scene",
)
"""What a patch of a picture may show."""


@dataclass(frozen=True)
class Pool:
    """Pictures (n, 3, 64, 64) uint8; what lies in each of their 8x8 patches (n, 64), an index of
    `CONTENTS`; what was asked for; and what was drawn: the same, every background named."""

    pictures: Tensor
    contents: Tensor
    asked: list[Spec]
    drawn: list[Spec]


def make_pool(asked: list[Spec], vae: Network, generator: torch.Generator) -> Pool:
    """Draws every spec; every second picture goes once through the autoencoder, as sampled pictures
    do."""
    drawn = [
        spec if spec.background else replace(spec, background=pick(tuple(PLAIN), generator))
        for spec in asked
    ]
    pictures, contents = [], []
    for start in range(0, len(drawn), 512):
        specs = drawn[start : start + 512]
        picture = render(specs, generator)
        picture.images[::2] = reconstruct(vae, picture.images[::2])
        pictures.append((picture.images * 255).round().to(torch.uint8))
        contents.append(_name_patches(specs, picture))
    return Pool(torch.cat(pictures), torch.cat(contents), asked, drawn)


def _name_patches(specs: Sequence[Spec], picture: Picture) -> Tensor:
    """(B, 64): the object that covers most of a patch and at least a quarter of it, else the
    background."""
    share, most = F.avg_pool2d(picture.regions, PATCH).flatten(2).max(1)
    found = torch.empty(share.shape, dtype=torch.long)
    for i, spec in enumerate(specs):
        owners = [spec.things[owner] for owner in picture.owners[i]]
        objects = [CONTENTS.index(f"{thing.colour} {thing.shape}") for thing in owners]
        named = torch.tensor([*objects, 0, 0])  # regions have room for three objects
        around = torch.tensor(CONTENTS.index(spec.background))
        found[i] = named[most[i]].where(share[i] >= 0.25, around)
    return found


def draw_test_pool(pictures: int, seed: int) -> Pool:
    """Pictures of the test prompts of every kind, in turn, every second one once through the
    autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    asked = [spec for kind in KINDS for spec in islice(cycle(prompts("test", kind)), pictures)]
    return make_pool(asked, load_pipeline("shapes").vae.float(), generator)


def to_images(pool: Pool) -> list[Image.Image]:
    """The pool's pictures as Pillow has them."""
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pool.pictures]


def draw_training_pool(count: int, vae: Network, generator: torch.Generator) -> Pool:
    """Training prompts in pairs: row 2 i + 1 differs from row 2 i in one thing, where that is in no
    other split.

    Counts are of all splits: there are 48 of them, and a judge that knew 34 would say no to the
    others.
    """
    asked = []
    counts = [spec for split in SPLITS for spec in prompts(split, "count")]
    for drawn in draw_specs(count // 2, generator, SHARES):
        spec = pick(counts, generator) if drawn.kind == "count" else drawn
        other = make_near_miss(spec, generator)
        is_twice = len(set(other.things)) < len(other.things)
        is_lawful = not is_twice and other.combination not in list_held_out()
        asked += [spec, other if is_lawful else spec]
    return make_pool(asked, vae, generator)


@cache
def list_held_out() -> frozenset[str]:
    """The combinations that no training may show."""
    kinds = [kind for kind in KINDS if kind != "count"]
    return frozenset(
        spec.combination
        for split in ("val", "test")
        for kind in kinds
        for spec in prompts(split, kind)
    )


def list_true_phrases(drawn: Spec) -> list[str]:
    """Every noun phrase that holds of the picture; "a red circle" holds of two of them as well."""
    several = [Thing(thing.colour, thing.shape).phrase for thing in drawn.things if thing.count > 1]
    places = (
        ["the sky", "the grass"]
        if drawn.background == "scene"
        else [f"a {drawn.background} background"]
    )
    return [*(thing.phrase for thing in drawn.things), *several, *places]


def list_false_phrases(drawn: Spec) -> list[list[str]]:
    """Noun phrases that do not hold, in groups: objects made of colours and shapes that are there
    but not together, objects of which one half is there, other counts, other surroundings. No group
    is empty.
    """
    there = {(thing.colour, thing.shape) for thing in drawn.things}
    crossed = {(a, b) for a, _ in there for _, b in there} - there
    half = {(c, shape) for c in COLOURS for _, shape in there} | {
        (colour, s) for colour, _ in there for s in SHAPES
    }
    present = {thing.phrase for thing in drawn.things}
    counts = [
        Thing(*pair, count=n).phrase for n in COUNTS.values() for pair in sorted(there | half)
    ]
    around = [f"a {shade} background" for shade in (*PLAIN, *TEXTURES) if shade != drawn.background]
    groups = [
        [Thing(*pair).phrase for pair in sorted(crossed)],
        [Thing(*pair).phrase for pair in sorted(half - there)],
        [phrase for phrase in counts if phrase not in present],
        around + ([] if drawn.background == "scene" else ["the sky", "the grass"]),
    ]
    return [group for group in groups if group]
