"""The world of coloured shapes: what can be said of a picture, as data.

A `Spec` is the meaning of a prompt: which objects, how many, in which relation, at which place, on
which background. Its text, subjects and phrases follow from it, the renderer draws it and the
checker decides whether a picture shows it. Every kind of prompt has its own finite list of
*combinations* (the meaning without word order), divided once and for all into train, validation and
test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations, permutations, product, zip_longest

COLOURS: dict[str, tuple[float, float, float]] = {  # red, green and blue in [0, 1]
    "red": (0.88, 0.10, 0.12),
    "orange": (1.00, 0.45, 0.04),
    "yellow": (0.98, 0.92, 0.08),
    "green": (0.10, 0.68, 0.22),
    "blue": (0.10, 0.28, 0.92),
    "purple": (0.56, 0.12, 0.76),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
COUNTS: dict[str, int] = {"two": 2, "three": 3}
RELATIONS: tuple[str, ...] = ("above", "below", "left of", "right of")
OPPOSITE: dict[str, str] = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
}
PLAIN: dict[str, float] = {"white": 0.94, "gray": 0.55, "black": 0.08}
"""Backgrounds of one grey level in [0, 1]."""
TEXTURES: tuple[str, ...] = ("striped", "checkered", "dotted")
PLACES: dict[str, str] = {"sky": "in the sky", "grass": "on the grass"}
SPLITS: tuple[str, ...] = ("train", "val", "test")
KINDS: tuple[str, ...] = (
    "one",
    "two",
    "three",
    "count",
    "relation",
    "background",
    "texture",
    "scene",
)
WORDS: tuple[str, ...] = (
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    *COUNTS,
    *("above", "below", "left", "right", "of"),
    *PLAIN,
    *TEXTURES,
    *PLACES,
    *("a", "an", "and", "in", "on", "the", "background", ","),
)
"""Every word of every prompt; their order gives the tokens of the shipped checkpoints their ids."""

HELD_OUT = 0.15
"""Share of each kind's combinations that goes to the test split, and as much to validation."""


@dataclass(frozen=True, order=True)
class Thing:
    """One coloured shape, `count` times; `place` is "sky", "grass" or empty."""

    colour: str
    shape: str
    count: int = 1
    place: str = ""

    @property
    def name(self) -> str:
        """The words of the prompt that name it: "red circle", "red circles"."""
        return f"{self.colour} {self.shape}{'s' if self.count > 1 else ''}"

    @property
    def phrase(self) -> str:
        """Its noun phrase: "a red circle", "two red circles"."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        number = next((word for word, count in COUNTS.items() if count == self.count), article)
        return f"{number} {self.name}"


@dataclass(frozen=True)
class Spec:
    """The meaning of one prompt.

    `relation` holds from the first thing to the second. `background` is empty (anything goes), a
    plain shade, a texture, or "scene" (sky over grass).
    """

    kind: str
    things: tuple[Thing, ...]
    relation: str = ""
    background: str = ""

    @cached_property
    def text(self) -> str:
        """The prompt."""
        named = [f"{t.phrase} {PLACES[t.place]}" if t.place else t.phrase for t in self.things]
        if self.relation:
            words = f" {self.relation} ".join(named)
        elif len(named) > 1:
            words = f"{', '.join(named[:-1])} and {named[-1]}"
        else:
            words = named[0]
        if self.background in ("", "scene"):
            return words
        return f"{words} on a {self.background} background"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The phrases of the prompt whose regions must align."""
        return tuple(thing.name for thing in self.things)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Noun phrases, for metrics that ask about each."""
        phrases = [thing.phrase for thing in self.things]
        phrases += [f"the {thing.place}" for thing in self.things if thing.place]
        if self.background not in ("", "scene"):
            phrases.append(f"a {self.background} background")
        return tuple(phrases)

    @cached_property
    def combination(self) -> str:
        """What the prompt says apart from word order: equal for "a above b" and "b below a"."""
        things, relation = self.things, self.relation
        if relation in ("below", "right of"):
            things, relation = things[::-1], OPPOSITE[relation]
        elif not relation:
            things = tuple(sorted(things))
        named = tuple((t.colour, t.shape, t.count, t.place) for t in things)
        return repr((self.kind, named, relation, self.background))

    @cached_property
    def digest(self) -> str:
        """A stable hexadecimal hash of the combination: decides its split and names the prompt."""
        return hashlib.sha256(self.combination.encode()).hexdigest()

    def reorder(self) -> Spec:
        """The same combination in the other word order (relations turn into their opposite)."""
        return Spec(self.kind, self.things[::-1], OPPOSITE.get(self.relation, ""), self.background)


def _list_combinations(kind: str) -> Iterator[Spec]:
    """Every combination of a kind, once."""
    objects = [Thing(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
    pairs = list(combinations(objects, 2))
    few: list[tuple[Thing, ...]] = [*((thing,) for thing in objects), *pairs]
    if kind == "one":
        yield from (Spec(kind, (thing,)) for thing in objects)
    elif kind == "two":
        yield from (Spec(kind, pair) for pair in pairs)
    elif kind == "three":
        yield from (Spec(kind, triple) for triple in combinations(objects, 3))
    elif kind == "count":
        yield from (
            Spec(kind, (Thing(o.colour, o.shape, n),)) for o, n in product(objects, COUNTS.values())
        )
    elif kind == "relation":  # the other two relations are these in the other word order
        relations = ("above", "left of")
        yield from (Spec(kind, *case) for case in product(permutations(objects, 2), relations))
    elif kind in ("background", "texture"):
        surroundings: Iterable[str] = PLAIN if kind == "background" else TEXTURES
        yield from (Spec(kind, things, "", shade) for things, shade in product(few, surroundings))
    elif kind == "scene":
        placed = {place: [Thing(o.colour, o.shape, 1, place) for o in objects] for place in PLACES}
        yield from (
            Spec(kind, (thing,), "", "scene") for place in PLACES for thing in placed[place]
        )
        for up, down in product(placed["sky"], placed["grass"]):
            if (up.colour, up.shape) != (down.colour, down.shape):
                yield Spec(kind, (up, down), "", "scene")
    else:
        raise ValueError(f"kind={kind!r}: choose from {', '.join(KINDS)}")


@cache
def prompts(split: str, kind: str) -> tuple[Spec, ...]:
    """The prompts of one kind in one split, in an order that is arbitrary but always the same.

    Combinations are ranked by their hash within each (kind, number of things): the first 15 % are
    test, the next 15 % validation, the rest train. Half of the prompts use the other word order.

    Raises:
        ValueError: unknown split or kind.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose from {', '.join(SPLITS)}")
    groups: dict[int, list[Spec]] = {}
    for spec in _list_combinations(kind):
        groups.setdefault(len(spec.things), []).append(spec)
    chosen: list[Spec] = []
    for group in groups.values():
        group.sort(key=lambda spec: spec.digest)
        cut = round(HELD_OUT * len(group))
        parts = {"test": group[:cut], "val": group[cut : 2 * cut], "train": group[2 * cut :]}
        chosen += parts[split]
    # other digits than those that rank: else the first prompts of each split would be of one group
    chosen.sort(key=lambda spec: spec.digest[8:])
    return tuple(spec.reorder() if int(spec.digest[-1], 16) % 2 else spec for spec in chosen)


def take_turns(split: str, kinds: Iterable[str] = KINDS) -> list[Spec]:
    """The prompts of some kinds in one split. The kinds take turns, so that any first part has all
    of them.

    Raises:
        ValueError: unknown split or kind.
    """
    columns = [prompts(split, kind) for kind in kinds]
    return [spec for row in zip_longest(*columns) for spec in row if spec is not None]


@cache
def index_specs() -> dict[str, Spec]:
    """Every prompt the world can say, in every order of its things, with its meaning."""
    specs = [spec for split in SPLITS for kind in KINDS for spec in prompts(split, kind)]
    return {said.text: spec for spec in specs for said in _permute(spec)}


def _permute(spec: Spec) -> Iterator[Spec]:
    """All ways to say it: related things in both directions, others in any order."""
    if spec.relation:
        yield from (spec, spec.reorder())
    else:
        yield from (replace(spec, things=things) for things in permutations(spec.things))
