"""How many of a subject a prompt asks for: "two dogs", "three red cubes", "a pair of vases"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from asyndm.errors import UserError
from asyndm.subjects import Subject, find_span
from asyndm.words import normalise


def _split(text: str) -> list[str]:
    return text.split()


NUMBERS = {
    word: number
    for number, word in enumerate(
        _split("one two three four five six seven eight nine ten eleven twelve"), 1
    )
}
SETS = {"both": 2, "pair of": 2, "couple of": 2, "trio of": 3, "half a dozen": 6, "dozen": 12}
"""What says a number behind an article too."""
PAIRS = frozenset(
    _split(
        "binoculars glasses goggles headphones jeans pants pliers scissors shorts sunglasses tongs "
        "trousers tweezers"
    )
)
"""Of which a pair is one."""
MOST = 20
"""Larger figures are years and the like."""
DESCRIBING = 4
"""How many words may stand between a number and what it counts."""
TOKEN = re.compile(r"half a dozen\b|(?:pair|couple|trio) of\b|[^\W_]+(?:['-][^\W_]+)*|\S")
BREAKS = frozenset(
    _split(
        "a an the this that these those my your his her its our their some any no each every "
        "another of in on at to by for from with without over under above below beside near behind "
        "between around across through into onto next is are was were be has have had who which as "
        "while men women people children mice geese feet fish sheep deer # . : ; ! ? ( )"
    )
)
"""What is no word that describes a thing: what is said before it is said of something else."""
PLURAL = re.compile(r".*(?<![siu])s")
NAMING = frozenset(("a", "an", "number", "no", "version", "#"))
"""A number behind one of these is part of a name: "a two year old dog", "bus number 3"."""


def count_things(prompt: str, subject: Subject) -> int:
    """How many there are to be of a subject: what it says itself, else the number before its words,
    with what describes it in between. 1 where there is none, as for "some dogs".

    Numbers are those of English from one to twelve, figures to 20, and a few words for sets. A word
    in -s, or in -ing without a number right before it, is taken for what the number counts, or for
    what that does ("two dogs chasing cats").
    """
    if subject.count is not None:
        return subject.count
    try:
        start, end = find_span(prompt, subject)
    except UserError:
        return 1
    before, own = (
        TOKEN.findall(normalise(part).text) for part in (prompt[:start], prompt[start:end])
    )
    named = list(takewhile(lambda word: word not in BREAKS, own)) or own
    *described, noun = [*before, *named]
    return _count_before(described, noun)


def _count_before(words: Sequence[str], noun: str) -> int:
    """The number among the last of these words that is said of a noun behind them; else 1."""
    for place in range(len(words) - 1, max(-1, len(words) - 2 - DESCRIBING), -1):
        word, before = words[place], words[place - 1] if place else ""
        if number := SETS.get(word):
            return 1 if word == "pair of" and noun in PAIRS else number
        if number := _read_number(word):
            return 1 if before in NAMING else number
        if word in BREAKS or PLURAL.fullmatch(word):
            return 1
        if word.endswith("ing") and not _read_number(before):
            return 1
    return 1


def _read_number(word: str) -> int:
    """A number from 1 to `MOST`, or 0."""
    if word.isascii() and word.isdigit():
        return int(word) if len(word) < 3 and int(word) <= MOST else 0
    return NUMBERS.get(word, 0)
