"""Prompts that are wrong in one thing: what a judge of pictures has to tell from the right ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from asyndm.shapes.world import COLOURS, OPPOSITE, PLAIN, SHAPES, TEXTURES, Spec, Thing
from experiments.training.shapes.dataset import pick


def make_near_miss(spec: Spec, generator: torch.Generator) -> Spec:
    """The same prompt with one thing changed: a colour, a shape, the count, the relation, a place
    or the background."""
    changes = ["colour", "shape"]
    if spec.kind == "count":
        changes.append("count")
    if spec.relation:
        changes.append("relation")
    if spec.background:
        changes.append("place" if spec.background == "scene" else "background")
    change = pick(changes, generator)
    if change == "relation":
        return replace(spec, relation=OPPOSITE[spec.relation])
    if change == "background":
        # a shade for a shade, a texture for a texture: else the miss would be far from near
        alike = tuple(PLAIN) if spec.background in PLAIN else TEXTURES
        others = [name for name in alike if name != spec.background]
        return replace(spec, background=pick(others, generator))
    at = int(torch.randint(len(spec.things), (), generator=generator))
    changed = pick(_change_thing(spec.things[at], change), generator)
    return replace(spec, things=(*spec.things[:at], changed, *spec.things[at + 1 :]))


def _change_thing(thing: Thing, change: str) -> list[Thing]:
    """All that the thing may become."""
    if change == "colour":
        return [replace(thing, colour=c) for c in COLOURS if c != thing.colour]
    if change == "shape":
        return [replace(thing, shape=s) for s in SHAPES if s != thing.shape]
    if change == "count":
        return [replace(thing, count=5 - thing.count)]  # two or three
    return [replace(thing, place="grass" if thing.place == "sky" else "sky")]
