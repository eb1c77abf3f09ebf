"""What reads the same, and where words begin and end."""

from __future__ import annotations

import pytest

from asyndm.words import Span, find_occurrences, normalise


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("A Dog’s “bone”", 'a dog\'s "bone"'),
        ("ﬁsh — ＡＢ", "fish - ab"),
        ("soft\u00adhyphen", "softhyphen"),
        ("İstanbul", "istanbul"),
        ("Straße", "strasse"),
    ],
)
def test_what_reads_the_same_has_one_form(text: str, reading: str) -> None:
    found = normalise(text)
    assert found.text == reading and found.original == text
    assert len(found.origins) == len(found.text) == len(found.cuts) - 1


def test_places_are_those_of_the_original() -> None:
    assert normalise("ﬁsh").origins == (0, 0, 1, 2)
    assert normalise("ﬁsh").original_span(0, 2) == Span(0, 1)
    assert find_occurrences("un cafe\u0301 noir", "café") == [Span(3, 8)]


@pytest.mark.parametrize(
    ("text", "words", "spans"),
    [
        ("a dog, a hotdog, a dog", "dog", [Span(2, 5), Span(19, 22)]),
        ("a hot \n dog", "hot dog", [Span(2, 11)]),
        ("a dogma", "dog", []),
        ("一只狗和猫", "狗", [Span(2, 3)]),
        ("개가 있다", "개", [Span(0, 1)]),
        ("a dog", " ", []),
    ],
)
def test_words_are_found_whole(text: str, words: str, spans: list[Span]) -> None:
    assert find_occurrences(text, words) == spans
