"""The grammar and the renderer: what is said is what is drawn, and no split knows another's
combinations."""

from __future__ import annotations

import pytest
import torch

from asyndm.shapes.render import SIZE, render
from asyndm.shapes.world import COLOURS, KINDS, SPLITS, WORDS, Spec, Thing, prompts


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
    assert above.reordered() == Spec("relation", (blue, red), "below")
    assert above.combination == above.reordered().combination
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


@pytest.mark.parametrize("kind", KINDS)
def test_objects_have_their_colour_keep_apart_and_stay_inside(kind: str) -> None:
    specs = prompts("train", kind)[:12]
    picture = render(specs, torch.Generator().manual_seed(1))
    assert picture.images.shape == (len(specs), 3, SIZE, SIZE)
    assert float(picture.images.min()) >= 0
    assert float(picture.images.max()) <= 1
    assert float(picture.regions.sum(1).max()) <= 1 + 1e-6, "objects overlap"
    for i, spec in enumerate(specs):
        assert [picture.owners[i].count(k) for k in range(len(spec.things))] == [
            t.count for t in spec.things
        ]
        for j, owner in enumerate(picture.owners[i]):
            inside = picture.regions[i, j] == 1
            colour = torch.tensor(COLOURS[spec.things[owner].colour])
            torch.testing.assert_close(
                picture.images[i][:, inside], colour[:, None].expand(3, int(inside.sum()))
            )
            assert int(inside.sum()) > 60
            assert not inside[0].any()
            assert not inside[:, -1].any()


def test_a_picture_is_its_seed() -> None:
    specs = prompts("val", "texture")[:6]
    one, two, other = (render(specs, torch.Generator().manual_seed(s)).images for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
