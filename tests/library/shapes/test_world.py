"""The grammar: texts say their meaning, and no split knows another's combinations."""

from __future__ import annotations

import pytest

from asyndm.shapes.world import KINDS, SPLITS, WORDS, Spec, Thing, prompts


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_disjoint_by_combination_and_none_is_empty(kind: str) -> None:
    combinations = {split: {spec.combination for spec in prompts(split, kind)} for split in SPLITS}
    assert all(combinations.values())
    assert not combinations["train"] & combinations["test"]
    assert not combinations["train"] & combinations["val"]
    assert not combinations["val"] & combinations["test"]
    assert len(combinations["train"]) > len(combinations["test"])


def test_word_order_does_not_change_a_combination() -> None:
    red, blue = Thing("red", "circle"), Thing("blue", "star")
    assert Spec("two", (red, blue)).combination == Spec("two", (blue, red)).combination
    above = Spec("relation", (red, blue), "above")
    assert above.reorder() == Spec("relation", (blue, red), "below")
    assert above.combination == above.reorder().combination
    assert above.combination != Spec("relation", (blue, red), "above").combination


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Spec("one", (Thing("orange", "star"),)), "an orange star"),
        (Spec("count", (Thing("green", "triangle", 2),)), "two green triangles"),
        (
            Spec(
                "three", (Thing("red", "circle"), Thing("blue", "square"), Thing("green", "star"))
            ),
            "a red circle, a blue square and a green star",
        ),
        (
            Spec(
                "scene",
                (Thing("red", "star", 1, "sky"), Thing("blue", "star", 1, "grass")),
                "",
                "scene",
            ),
            "a red star in the sky and a blue star on the grass",
        ),
        (
            Spec("texture", (Thing("red", "circle"),), "", "striped"),
            "a red circle on a striped background",
        ),
    ],
)
def test_text_says_the_meaning(spec: Spec, text: str) -> None:
    assert spec.text == text
    assert all(subject in text for subject in spec.subjects)
    assert set(text.replace(",", " ,").split()) <= set(WORDS)


def test_texts_are_unique_within_a_split() -> None:
    for split in SPLITS:
        texts = [spec.text for kind in KINDS for spec in prompts(split, kind)]
        assert len(texts) == len(set(texts))


def test_unknown_split_or_kind_names_the_choices() -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        prompts("dev", "one")
    with pytest.raises(ValueError, match="relation"):
        prompts("test", "four")
