"""The exact checker against pictures whose truth is known, and its reasons word for word."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asyndm.errors import UserError
from asyndm.shapes.checker import check
from asyndm.shapes.render import render
from asyndm.shapes.world import Spec, Thing

RED, BLUE = Thing("red", "circle"), Thing("blue", "square")


def draw(spec: Spec, seed: int = 0) -> Tensor:
    return render([spec], torch.Generator().manual_seed(seed)).images


GREEN, STAR = replace(RED, colour="green"), Thing("yellow", "star")


@pytest.mark.parametrize(
    ("drawn", "asked", "surplus", "missing"),
    [
        ((RED, BLUE), (RED, BLUE), 0, 0),
        ((RED, BLUE, STAR), (RED, BLUE), 1, 0),
        ((replace(RED, count=3),), (RED,), 2, 0),
        ((RED,), (RED, BLUE), 0, 1),
        ((RED,), (replace(RED, count=3),), 0, 2),
        ((GREEN, BLUE), (RED, BLUE), 0, 0),
        ((GREEN,), (RED, BLUE, STAR), 0, 2),
        ((GREEN, STAR, BLUE), (RED,), 2, 0),
    ],
)
def test_things_are_counted_whatever_they_are(
    drawn: tuple[Thing, ...], asked: tuple[Thing, ...], surplus: int, missing: int
) -> None:
    picture = draw(Spec("two", drawn))
    assert [v.correct for v in check(picture, [Spec("two", drawn)])] == [True]
    verdict = check(picture, [Spec("two", asked)])[0]
    assert (verdict.surplus, verdict.missing) == (surplus, missing)
    assert verdict.correct == (drawn == asked)


@pytest.mark.parametrize(
    ("drawn", "asked", "reason"),
    [
        (Spec("two", (RED, BLUE)), Spec("one", (RED,)), "unexpected blue square"),
        (Spec("one", (RED,)), Spec("two", (RED, BLUE)), "the blue square is missing"),
        (
            Spec("one", (replace(RED, colour="green"),)),
            Spec("one", (RED,)),
            "the red circle is green",
        ),
        (
            Spec("one", (replace(RED, shape="star"),)),
            Spec("one", (RED,)),
            "the red circle is a star",
        ),
        (
            Spec("count", (replace(RED, count=3),)),
            Spec("count", (replace(RED, count=2),)),
            "3 red circles instead of 2",
        ),
        (
            Spec("relation", (RED, BLUE), "above"),
            Spec("relation", (RED, BLUE), "below"),
            "the red circle is not below the blue square",
        ),
        (
            Spec("background", (RED,), "", "white"),
            Spec("background", (RED,), "", "black"),
            "the background is white, not black",
        ),
        (
            Spec("texture", (RED,), "", "striped"),
            Spec("texture", (RED,), "", "dotted"),
            "the background is striped, not dotted",
        ),
        (
            Spec("scene", (replace(RED, place="sky"),), "", "scene"),
            Spec("scene", (replace(RED, place="grass"),), "", "scene"),
            "the red circle is not on the grass",
        ),
        (
            Spec("one", (RED,)),
            Spec("scene", (replace(RED, place="sky"),), "", "scene"),
            "the background is not sky over grass",
        ),
    ],
)
def test_reasons(drawn: Spec, asked: Spec, reason: str) -> None:
    assert [v.correct for v in check(draw(drawn), [drawn])] == [True]
    verdict = check(draw(drawn), [asked])[0]
    assert not verdict.correct
    assert verdict.reason == reason


def test_noise_and_nothing_are_wrong() -> None:
    spec = Spec("one", (RED,))
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not check(noise, [spec])[0].correct
    nothing = check(torch.full((1, 3, 64, 64), 0.5), [spec])[0]
    assert (nothing.reason, nothing.missing) == ("the red circle is missing", 1)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one \\(3, 64, 64\\) picture per spec"):
        check(torch.zeros(1, 3, 32, 32), [Spec("one", (RED,))])


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "asyndm.shapes.checker")
    with pytest.raises(UserError, match=r"checker needs scipy: pip install 'asyndm\[checker\]'"):
        importlib.import_module("asyndm.shapes.checker")
