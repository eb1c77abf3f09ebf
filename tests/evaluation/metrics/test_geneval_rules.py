"""GenEval's rules on detections worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndm.errors import UserError
from evaluation.metrics.geneval_rules import (
    Box,
    Detection,
    Meaning,
    Wanted,
    find_faults,
    find_relations,
    keep_surest,
    list_to_colour,
    read_meanings,
)

HERE, FAR_LEFT, FAR_UP = (
    (0.0, 0.0, 10.0, 10.0),
    (-100.0, 0.0, -90.0, 10.0),
    (0.0, -100.0, 10.0, -90.0),
)


def make_detections(*found: tuple[str, float] | tuple[str, float, Box]) -> list[Detection]:
    return [Detection(one[0], one[1], one[2] if len(one) == 3 else HERE) for one in found]


def judge(meaning: Meaning, found: list[Detection], *colours: str) -> list[str]:
    """What is wrong, with these colours of the objects that are asked for theirs."""
    objects = keep_surest(found, 0.3, 16)
    return find_faults(
        meaning, objects, dict(zip(list_to_colour(meaning, objects), colours, strict=True))
    )


def test_a_single_object() -> None:
    bench = Meaning("single_object", (Wanted("bench", 1),))
    assert judge(bench, make_detections(("bench", 0.31))) == []
    assert judge(bench, make_detections(("bench", 0.9), ("bench", 0.8), ("dog", 0.9))) == []
    assert judge(bench, make_detections(("bench", 0.3), ("dog", 0.9))) == [
        "expected bench>=1, found 0"
    ]


def test_two_objects() -> None:
    both = Meaning("two_object", (Wanted("Computer Mouse", 1), Wanted("hair drier", 1)))
    assert judge(both, make_detections(("mouse", 0.5), ("hairdrier", 0.5))) == []
    wanted = ["expected Computer Mouse>=1, found 0", "expected hair drier>=1, found 0"]
    assert judge(both, []) == wanted and judge(both, make_detections(("mouse", 0.5))) == wanted[1:]


def test_counting() -> None:
    three = Meaning("counting", (Wanted("clock", 3),), (Wanted("clock", 4),))
    found = make_detections(*[("clock", 0.95)] * 4)
    assert judge(three, found[:3]) == []
    assert judge(three, found[:2]) == ["expected clock>=3, found 2"]
    assert judge(three, found) == ["expected clock<4, found 4"]


def test_the_surest_count_strictly_above_the_threshold() -> None:
    found = make_detections(("a", 0.5), ("b", 0.9), ("a", 0.7), ("a", 0.9), ("a", 0.6))
    assert [one.score for one in keep_surest(found, 0.5, 2)["a"]] == [0.9, 0.7]
    assert [one.score for one in keep_surest(found, 0.5, 9)["a"]] == [0.9, 0.7, 0.6]
    assert keep_surest(found, 0.9, 9) == {}


def test_colours() -> None:
    red = Meaning("colors", (Wanted("bench", 1, "red"),))
    assert judge(red, make_detections(("bench", 0.9)), "red") == []
    assert judge(red, make_detections(("bench", 0.9)), "blue") == [
        "expected red bench>=1, found 0 red; and 1 blue"
    ]
    asked = list_to_colour(
        red, keep_surest(make_detections(("bench", 0.5), ("bench", 0.9)), 0.3, 16)
    )
    assert [(name, one.score) for name, one in asked] == [("bench", 0.9)]
    two = Meaning("colors", (Wanted("bench", 2, "red"),))
    assert judge(two, make_detections(("bench", 0.9), ("bench", 0.8)), "white", "red") == [
        "expected red bench>=2, found 1 red; and 1 red, 1 white"
    ]
    assert judge(two, make_detections(("bench", 0.9))) == ["expected bench>=2, found 1"]


def test_colours_of_two_things() -> None:
    both = Meaning("color_attr", (Wanted("cup", 1, "red"), Wanted("dog", 1, "blue")))
    found = make_detections(("dog", 0.9), ("cup", 0.9))
    assert judge(both, found, "red", "blue") == []
    assert judge(both, found, "blue", "red") == [
        "expected red cup>=1, found 0 red; and 1 blue",
        "expected blue dog>=1, found 0 blue; and 1 red",
    ]


def test_positions() -> None:
    left = Meaning("position", (Wanted("cat", 1), Wanted("dog", 1, None, "left of", 0)))
    assert judge(left, make_detections(("cat", 0.9, HERE), ("dog", 0.9, FAR_LEFT))) == []
    assert judge(left, make_detections(("cat", 0.9, HERE), ("dog", 0.9, FAR_UP))) == [
        "expected dog left of target, found above target"
    ]
    assert judge(left, make_detections(("cat", 0.9, HERE), ("dog", 0.9, HERE))) == [
        "expected dog left of target, found none of the four"
    ]
    assert judge(left, make_detections(("dog", 0.9, FAR_LEFT))) == [
        "expected cat>=1, found 0",
        "no target for dog to be left of",
    ]
    surest = make_detections(("cat", 0.9, HERE), ("dog", 0.9, FAR_UP), ("dog", 0.8, FAR_LEFT))
    assert judge(left, surest) == ["expected dog left of target, found above target"]
    two = Meaning("position", (Wanted("cat", 1), Wanted("dog", 2, None, "left of", 0)))
    assert judge(two, surest) == ["expected dog left of target, found above target"]


@pytest.mark.parametrize(
    ("centre", "wanted"),
    [
        ((0, 0), ()),
        ((4, 0), ()),
        ((8, 0), ()),
        ((8.01, 0), ()),
        ((16, 0), ()),
        ((16.01, 0), ("right of",)),
        ((-16.01, 0), ("left of",)),
        ((0, 16.01), ("below",)),
        ((0, -16.01), ("above",)),
        ((-100, -100), ("left of", "above")),
        ((100, 20), ("right of",)),
    ],
)
def test_relations_at_their_borders(centre: tuple[float, float], wanted: tuple[str, ...]) -> None:
    """Sizes 48 and 32 and a margin of 0.1: |o| - 8 must exceed half of the norm of o, which it does
    beyond 16."""
    x, y = centre
    assert find_relations((x - 24, y - 24, x + 24, y + 24), (-16, -16, 16, 16)) == wanted


def test_a_margin_of_nothing() -> None:
    one = (0.0, 0.0, 1.0, 1.0)
    assert find_relations((0.01, 0.0, 1.01, 1.0), one, 0.0) == ("right of",)
    assert find_relations((0.0005, 0.0, 1.0005, 1.0), one, 0.0) == ()
    assert find_relations(one, one, 0.0) == ()


coordinates = st.floats(-100, 100)
boxes = st.tuples(coordinates, coordinates, st.floats(0, 50), st.floats(0, 50)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(boxes, boxes, st.floats(0, 1))
def test_relations_are_antisymmetric(one: Box, other: Box, margin: float) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    there, back = find_relations(one, other, margin), find_relations(other, one, margin)
    assert {opposite[relation] for relation in there} == set(back)
    assert all(opposite[relation] not in there for relation in there)


ROW: dict[str, Any] = {"tag": "t", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}


def write_rows(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_metadata_is_read(tmp_path: Path) -> None:
    position = {"class": "dog", "count": 2, "color": "red", "position": ["left of", 0]}
    row = {**ROW, "include": [*ROW["include"], position], "exclude": [{"class": "owl", "count": 3}]}
    wanted = (Wanted("cat", 1), Wanted("dog", 2, "red", "left of", 0))
    assert read_meanings(write_rows(tmp_path, row, row)) == {
        "a cat": Meaning("t", wanted, (Wanted("owl", 3),))
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"include": [{"class": "cat"}]},
            "count of 'cat' must be a whole number of 1 or more, not None",
        ),
        ({"include": [{"class": "cat", "count": 0}]}, "not 0"),
        (
            {"include": [{"class": "cat", "count": 1, "color": "teal"}]},
            "color 'teal': choose from red, ",
        ),
        (
            {"include": [{"class": "cat", "count": 1, "position": ["left of", 0]}]},
            "position .*earlier entry",
        ),
        (
            {"include": [{"class": "cat", "count": 1, "position": ["on", 0]}]},
            "position .*one of left of",
        ),
        ({"exclude": {"class": "cat"}}, "exclude must be a list"),
        ({"exclude": ["cat"]}, "exclude: expected a class and a count, found 'cat'"),
        ({"exclude": [{"class": "cat"}]}, "count of 'cat'"),
        ({"tag": "other"}, "an earlier line says otherwise of the prompt 'a cat'"),
    ],
)
def test_bad_metadata_is_told_with_its_line(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"metadata.jsonl, line 2: .*{message}"):
        read_meanings(write_rows(tmp_path, ROW, {**ROW, **row}))
