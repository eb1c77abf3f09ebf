"""GenEval's rules (arXiv 2310.11513): is a picture right, given what a detector found in it?

`read_meanings` gives what each prompt asks for, `keep_surest` the detections that count,
`find_faults` what is wrong. No network here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from asyndm.errors import UserError, is_whole
from evaluation.runs.prompts import GenEvalPrompts

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "doughnut": "donut",
    "hairdryer": "hairdrier",
    "mobilephone": "cellphone",
    "computermouse": "mouse",
    "computerkeyboard": "keyboard",
    "tvremote": "remote",
    "tvmonitor": "tv",
    "television": "tv",
}
"""Other names of COCO's classes: GenEval's own, and those of detectors that took over the names of
VOC."""
LEAST = 1e-3
"""Pixels; offsets below it on both axes make no relation."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """An object in a picture.

    Attributes:
        name: its class, as `normalize_class` writes it.
        score: in [0, 1].
        box: left, top, right, bottom in pixels.
    """

    name: str
    score: float
    box: Box


@dataclass(frozen=True)
class Wanted:
    """`count` objects of a class; all of them in `colour`, and each in `relation` to each object of
    the earlier group number `target`, where these are given."""

    name: str
    count: int
    colour: str | None = None
    relation: str | None = None
    target: int = 0


@dataclass(frozen=True)
class Meaning:
    """What a prompt asks for: everything of `include`, and nothing of `exclude` that often."""

    tag: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()


Objects = Mapping[str, Sequence[Detection]]
"""Detections by class, the surest first."""


def normalize_class(name: str) -> str:
    """A class under its one name: any case, spaces or none, synonyms of COCO's classes."""
    key = re.sub(r"[\s_-]+", "", name.casefold())
    return SYNONYMS.get(key, key)


def keep_surest(
    detections: Sequence[Detection], threshold: float, most: int
) -> dict[str, list[Detection]]:
    """The detections with score > threshold, of each class the `most` surest."""
    objects: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda detection: -detection.score):
        if (
            detection.score > threshold
            and len(own := objects.setdefault(detection.name, [])) < most
        ):
            own.append(detection)
    return objects


def list_to_colour(meaning: Meaning, objects: Objects) -> list[tuple[str, Detection]]:
    """The objects whose colour `find_faults` asks for, each after the prompt's name for it."""
    wanted = [one for one in meaning.include if one.colour is not None]
    groups = [(one, _find_candidates(one, objects)) for one in wanted]
    return [
        (one.name, found) for one, group in groups if len(group) == one.count for found in group
    ]


def find_faults(
    meaning: Meaning,
    objects: Objects,
    colours: Mapping[tuple[str, Detection], str],
    margin: float = 0.1,
) -> list[str]:
    """What is wrong with a picture; nothing where it is right.

    Of every class the prompt asks for, the `count` surest objects are looked at, and no others.

    Args:
        objects: as `keep_surest` gives them.
        colours: for all that `list_to_colour` names.
        margin: of `find_relations`.
    """
    wrong: list[str] = []
    groups: list[list[Detection] | None] = []
    for wanted in meaning.include:
        found = _find_candidates(wanted, objects)
        fault = _find_fault(wanted, found, colours, groups, margin)
        groups.append(None if fault else found)
        wrong += [fault] if fault else []
    for unwanted in meaning.exclude:
        number = len(objects.get(normalize_class(unwanted.name), ()))
        if number >= unwanted.count:
            wrong.append(f"expected {unwanted.name}<{unwanted.count}, found {number}")
    return wrong


def find_relations(one: Box, other: Box, margin: float = 0.1) -> tuple[str, ...]:
    """Where a box is, seen from another; none, one or two of `RELATIONS`.

    With o the offset of the centres and s the sum of the sizes, per axis: r = sign(o) · max(|o| -
    margin · s, 0). A relation holds where r / ‖o‖ is beyond 0.5 on its side. The norm is that of o,
    not of r, as in the original.
    """
    offsets = [(one[i] + one[i + 2] - other[i] - other[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(one[i + 2] - one[i]) + abs(other[i + 2] - other[i]) for i in (0, 1)]
    revised = [
        math.copysign(max(abs(o) - margin * s, 0.0), o) for o, s in zip(offsets, sizes, strict=True)
    ]
    if max(map(abs, revised)) < LEAST:
        return ()
    dx, dy = (r / math.hypot(*offsets) for r in revised)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return tuple(relation for relation, true in zip(RELATIONS, holds, strict=True) if true)


def _find_candidates(wanted: Wanted, objects: Objects) -> list[Detection]:
    return list(objects.get(normalize_class(wanted.name), ())[: wanted.count])


def _find_fault(
    wanted: Wanted,
    found: Sequence[Detection],
    colours: Mapping[tuple[str, Detection], str],
    groups: Sequence[Sequence[Detection] | None],
    margin: float,
) -> str:
    """What is wrong with one group, given the groups before it (None: a wrong one); nothing where
    it is right."""
    name, count, colour, relation = wanted.name, wanted.count, wanted.colour, wanted.relation
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if colour is not None:
        seen = [colours[name, detection] for detection in found]
        if seen.count(colour) < count:
            listed = ", ".join(f"{seen.count(other)} {other}" for other in COLOURS if other in seen)
            return (
                f"expected {colour} {name}>={count}, "
                f"found {seen.count(colour)} {colour}; and {listed}"
            )
    if relation is not None:
        targets = groups[wanted.target]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for detection, target in product(found, targets):
            if relation not in (true := find_relations(detection.box, target.box, margin)):
                seen_at = f"{' and '.join(true)} target" if true else "none of the four"
                return f"expected {name} {relation} target, found {seen_at}"
    return ""


def read_meanings(path: str) -> dict[str, Meaning]:
    """What each prompt of an ``evaluation_metadata.jsonl`` asks for, by the prompt's text.

    Raises:
        UserError: the file is missing, or a line is none of GenEval's or contradicts an earlier
            one; with its number.
    """
    meanings: dict[str, Meaning] = {}
    for place, row in GenEvalPrompts(path).rows():
        try:
            meaning = _parse_meaning(row)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        if meanings.setdefault(row["prompt"].strip(), meaning) != meaning:
            raise UserError(
                f"{place}: an earlier line says otherwise of the prompt {row['prompt']!r}"
            )
    return meanings


def _parse_meaning(row: Mapping[str, Any]) -> Meaning:
    include = tuple(_parse_wanted(entry, place) for place, entry in enumerate(row["include"]))
    return Meaning(row["tag"], include, tuple(_parse_excluded(row.get("exclude") or [])))


def _parse_excluded(entries: object) -> Iterator[Wanted]:
    if not isinstance(entries, list):
        raise UserError("exclude must be a list")
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("class"), str):
            raise UserError(f"exclude: expected a class and a count, found {entry!r}")
        yield Wanted(entry["class"], _parse_count(entry))


def _parse_wanted(entry: Mapping[str, Any], place: int) -> Wanted:
    wanted = Wanted(entry["class"], _parse_count(entry), entry.get("color"))
    if wanted.colour is not None and wanted.colour not in COLOURS:
        raise UserError(f"color {wanted.colour!r}: choose from {', '.join(COLOURS)}")
    if (position := entry.get("position")) is None:
        return wanted
    match position:
        case [str(relation), target] if (
            relation in RELATIONS and is_whole(target) and 0 <= target < place
        ):
            return Wanted(wanted.name, wanted.count, wanted.colour, relation, target)
    raise UserError(
        f"position {position!r}: expected one of {', '.join(RELATIONS)} and the place of an "
        "earlier entry of include"
    )


def _parse_count(entry: Mapping[str, Any]) -> int:
    count = entry.get("count")
    if not is_whole(count) or count < 1:
        raise UserError(
            f"count of {entry['class']!r} must be a whole number of 1 or more, not {count!r}"
        )
    return count
