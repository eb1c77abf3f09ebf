"""The exact checker as a metric: by the prompt's text, from the pictures as they were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import Image

from asyndm.errors import UserError
from asyndm.shapes.render import render
from asyndm.shapes.world import KINDS, Spec, Thing
from asyndm.shapes.world import prompts as specs_of
from evaluation.metrics import Score
from evaluation.metrics.exact import Exact
from evaluation.runs.prompts import FilePrompts, Prompt, ShapesPrompts

SQUARE = Image.new("RGB", (64, 64))


def test_what_cannot_be_checked_says_why() -> None:
    prompts = [Prompt("a", "a cat on a mat"), Prompt("b", "a red circle")]
    assert Exact().score([SQUARE, Image.new("RGB", (32, 64))], prompts) == [
        Score(None, "not a prompt of the shapes world"),
        Score(None, "the checker knows pictures of 64x64 only"),
    ]


def test_prompts_of_ones_own_are_checked_if_the_world_knows_them(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("- a cat\n- a red circle and a blue square\n- a blue square and a red circle\n")
    own = FilePrompts(str(path)).load()
    Exact().check(own, (64, 64))
    Exact().check(own[2:], (64, 64))
    with pytest.raises(UserError, match="metric=none"):
        Exact().check(own[:1], (64, 64))


def test_things_may_be_said_in_any_order(tmp_path: Path) -> None:
    three = next(p for p in ShapesPrompts(kinds=["three"]).load() if "background" not in p.text)
    first, second, third = (subject.text for subject in three.subjects)
    for order in permutations((first, second, third)):
        phrases = [f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words in order]
        Exact().check([Prompt("own", f"{phrases[0]}, {phrases[1]} and {phrases[2]}")], (64, 64))


def draw(specs: Sequence[Spec]) -> list[Image.Image]:
    """What shows each of them."""
    pictures = render(specs, torch.Generator().manual_seed(0)).images
    pixels = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def test_each_value_comes_with_how_many_things_there_are_too_many_or_too_few() -> None:
    red, blue, star = Thing("red", "circle"), Thing("blue", "square"), Thing("yellow", "star")
    prompt = Prompt("p", "a red circle and a blue square")
    drawn = [(red, blue), (red, blue, star), (blue,), (replace(red, colour="green"), blue)]
    scores = Exact().score(draw([Spec("two", things) for things in drawn]), [prompt] * 4)
    assert scores == [
        Score(1.0, "", 0, 0),
        Score(0.0, "unexpected yellow star", 1, 0),
        Score(0.0, "the red circle is missing", 0, 1),
        Score(0.0, "the red circle is green", 0, 0),
    ]


def test_true_pictures_are_right_and_others_wrong() -> None:
    specs = [specs_of("test", kind)[i] for kind in KINDS for i in range(3)]
    images = draw(specs)
    known = {prompt.text: prompt for prompt in ShapesPrompts().load()}
    prompts = [known[spec.text] for spec in specs]
    right = Exact().score(images, prompts)
    assert sum(score.value or 0 for score in right) >= len(specs) - 1
    wrong = Exact().score(images[3:] + images[:3], prompts)
    assert sum(score.value or 0 for score in wrong) <= 1
    assert all(score.reason for score in wrong if not score.value)
