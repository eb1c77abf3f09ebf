"""Where words stand among CLIP's tokens."""

from __future__ import annotations

from typing import Any

import pytest

from asyndm.guidance.prompts import PromptTokens, Word, read_prompt_tokens
from asyndm.networks import find_family
from asyndm.subjects import Subject
from tests.pipelines.registry import PIPELINES


def read(pipe: Any, prompt: str, *subjects: str) -> PromptTokens:
    parsed = [Subject.parse(subject) for subject in subjects]
    return read_prompt_tokens(find_family(pipe), pipe, prompt, parsed, {})


def test_words_are_found_by_their_characters(pipe: Any) -> None:
    """ "rabbit" is six tokens, "red" and "dog" are one each."""
    prompt = "a red dog, a Red rabbit"
    made = read(pipe, prompt, "red dog", "red rabbit")
    rabbit = tuple(range(7, 13))
    assert made.subjects == ((2, 3), (6, *rabbit))
    assert made.words == (
        (Word("red", (2,)), Word("dog", (3,))),
        (Word("Red", (6,)), Word("rabbit", rabbit)),
    )
    assert (made.end, made.length) == (13, 77)
    assert made.find(prompt.index("rabbit"), len(prompt)) == rabbit


def test_of_equal_words_the_one_meant_is_found(pipe: Any) -> None:
    made = read(pipe, "a red dog and a red dog", "red dog#2")
    ((red, dog),) = made.words
    assert made.subjects == ((red.tokens + dog.tokens),)
    assert dog.tokens[0] == made.end - 1


def test_words_beyond_reach_have_no_tokens(pipe: Any) -> None:
    prompt = "a red dog and a " + "rabbit " * 12 + "cat"
    made = read(pipe, prompt, "red dog")
    assert (made.end, made.length) == (76, 77)
    assert made.find(prompt.index("cat"), len(prompt)) == ()


@pytest.mark.parametrize("name", ["sdxl", "sdxl_refiner"])
def test_both_tokenizers_of_sdxl_place_words_alike(name: str) -> None:
    made = read(PIPELINES[name].build(), "a red dog", "red dog")
    ((red, dog),) = made.words
    assert red.text == "red" and made.subjects == ((*red.tokens, *dog.tokens),)
    assert made.end == dog.tokens[-1] + 1
