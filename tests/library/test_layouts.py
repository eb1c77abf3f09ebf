from __future__ import annotations

import pytest

from asyndm.errors import UserError
from asyndm.layouts import find_places, list_boxes
from asyndm.masks import LayoutMask
from asyndm.subjects import Subject

WRONG_BOXES: dict[str, tuple[object, str]] = {
    "not by name": ([0, 0, 1, 1], "must be given by subject"),
    "none": ({}, "must be given by subject"),
    "beyond the picture": ({"fox": [0, 0, 1.1, 1]}, "boxes of 'fox' must be"),
    "before it": ({"fox": [-0.1, 0, 1, 1]}, "boxes of 'fox' must be"),
    "empty": ({"fox": [0.5, 0, 0.5, 1]}, "0 <= x0 < x1 <= 1"),
    "turned": ({"fox": [0, 0.9, 1, 0.1]}, "0 <= y0 < y1 <= 1"),
    "three numbers": ({"fox": [0, 0, 1]}, "boxes of 'fox' must be"),
    "words": ({"fox": "left"}, "boxes of 'fox' must be"),
    "no box": ({"fox": []}, "boxes of 'fox' must be"),
    "one of two": ({"fox": [[0, 0, 1, 1], [0, 0, 2, 1]]}, "boxes of 'fox' must be"),
    "no number": ({"fox": [0, 0, float("nan"), 1]}, "boxes of 'fox' must be"),
}


@pytest.mark.parametrize("case", WRONG_BOXES)
def test_wrong_boxes_are_one_clear_line(case: str) -> None:
    boxes, message = WRONG_BOXES[case]
    with pytest.raises(UserError, match=message) as caught:
        LayoutMask(boxes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_names_are_the_subjects_however_they_are_written() -> None:
    subjects = [Subject("Red  Car"), Subject("dog"), Subject("dog", occurrence=2)]
    assert find_places({"dog#2": 0, "red car": 0, "DOG": 0}, subjects) == [2, 0, 1]
    assert find_places({"jersey #7": 0}, [Subject("jersey #7")]) == [0]
    assert find_places({}, []) == []
    with pytest.raises(UserError, match="'dog#3' is not among the subjects"):
        find_places({"dog#3": 0}, subjects)


def test_one_box_is_a_list_of_one() -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    assert list_boxes(list(box)) == list_boxes([list(box)]) == [list(box)]
    assert list_boxes([box, box]) == [box, box]
