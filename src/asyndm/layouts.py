"""What users give as masks: an entry for each image, and in it something for each of some subjects,
by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from asyndm.errors import UserError, is_number
from asyndm.subjects import Subject, spell
from asyndm.words import normalise

Box: TypeAlias = Sequence[float]
"""(x0, y0, x1, y1), from the left and the top of the picture, which are 0, to its ends, 1."""
Layout: TypeAlias = Mapping[str, Box | Sequence[Box]]
"""A box for each of some subjects, or several."""


def list_entries(given: Any, count: int, what: str) -> list[Any]:
    """The entry of each image: of a list its own, else the same for all.

    Raises:
        UserError: a list of another number of them.
    """
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise UserError(f"mask: {len(given)} {what} were given for {count} images")
    return list(given)


def find_places(named: Mapping[str, object], subjects: Sequence[Subject]) -> list[int]:
    """Which of the subjects each name is of: as in the prompt, in any case, "dog#2" for the second.

    Raises:
        UserError: there is none of a name.
    """
    known = [_read(spell(subject)) for subject in subjects]
    names = {name: _read(str(name)) for name in named}
    if unknown := [name for name, text in names.items() if text not in known]:
        there = ", ".join(map(spell, subjects)) or "none"
        raise UserError(f"mask: {unknown[0]!r} is not among the subjects ({there})")
    return [known.index(text) for text in names.values()]


def _read(name: str) -> str:
    return " ".join(normalise(name).text.split())


def check_layout(layout: object) -> None:
    """Refuse what is no layout.

    Raises:
        UserError: no box at all, or one that is empty or goes beyond the picture.
    """
    if not isinstance(layout, Mapping) or not layout:
        raise UserError(
            "mask boxes must be given by subject, as in {rabbit: [0.1, 0.2, 0.5, 0.9]}, "
            f"got {layout!r}"
        )
    for name, boxes in layout.items():
        if not (listed := list_boxes(boxes)) or not all(map(_is_box, listed)):
            raise UserError(
                f"mask boxes of {name!r} must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and "
                f"0 <= y0 < y1 <= 1, or a list of these, got {boxes!r}"
            )


def list_boxes(boxes: Any) -> list[Box]:
    """The boxes of a subject, be it one or several."""
    listed = list(boxes) if isinstance(boxes, (list, tuple)) else [boxes]
    return [listed] if all(map(is_number, listed)) else listed


def _is_box(box: Any) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
        return False
    x0, y0, x1, y1 = box
    return bool(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1)
