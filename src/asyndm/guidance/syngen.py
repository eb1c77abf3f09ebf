"""What is said of a noun is where the noun is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from asyndm.errors import UserError
from asyndm.guidance.attention_descent import AttentionDescent
from asyndm.guidance.base import Cost

if TYPE_CHECKING:
    from asyndm.guidance.attention_losses import AttentionLoss, Group
    from asyndm.guidance.prompts import PromptTokens, Word

SILENT = re.compile(
    r"an?|the|th[ai][ts]|th[eo]se|some|any|each|every|no|my|your|his|her|its|our|their|and|or"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+"
)
"""Words before a noun that say nothing of its looks."""
PREPOSITIONS = re.compile(
    "of|with|in|on|at|by|from|to|for|under|over|near|behind|beside|between|without|above|below"
    "|into|through|that|which|who"
)
"""Where the part of a phrase ends whose last word is the noun."""
MODIFIERS = frozenset(["amod", "nmod", "compound", "npadvmod", "advmod", "acomp"])
"""Relations of a word to what it modifies, as spaCy calls them."""


class ParsedToken(Protocol):
    """What is used of a token of spaCy."""

    idx: int
    text: str
    pos_: str
    dep_: str

    @property
    def head(self) -> Any: ...

    @property
    def children(self) -> Iterable[Any]: ...


Parse: TypeAlias = "Callable[[str], Iterable[ParsedToken]]"


@dataclass(frozen=True)
class SynGen(AttentionDescent):
    """Linguistic binding in attention maps, SynGen (arXiv 2306.08877): x ← x - η ∇ₓ L in the first
    half of the steps,

    L = Σ_(m,n) [D(m, n) - ½ (mean_u D(m, u) + mean_u D(n, u))],

    over pairs of a modifier m and its noun n; u are the prompt's tokens outside their group, and D
    the symmetric Kullback-Leibler divergence of two attention maps, each divided by its sum.

    The pairs are those of the subjects: the last word of "shiny red car" is the noun, and those
    before it are its modifiers, but for articles, numbers and "and"; what follows a preposition
    ("car with flags") is left aside. A subject of one word has none. An image without pairs is
    made as by CFG, and at its cost. The published code parses the first prompt alone, and of a
    batch moves the last image alone.

    Args:
        parser: a model of spaCy, such as "en_core_web_trf", that finds the pairs in the whole
            prompt, as published; None: they are those of the subjects.

    Raises:
        UserError: a parser that is no name.
    """

    parser: str | None = None

    # That is how its authors write it; in settings it is one word.
    name = "syngen"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parser is not None and (not isinstance(self.parser, str) or not self.parser):
            raise UserError(
                "guidance.parser must be the name of a spaCy model such as en_core_web_trf, or "
                f"None for the pairs of the subjects, got {self.parser!r}"
            )

    def make_loss(self, prompts: Sequence[PromptTokens]) -> AttentionLoss:
        """L.

        Raises:
            UserError: spaCy or its model is not installed.
        """
        from asyndm.guidance.attention_losses import Misbinding

        parse = None if self.parser is None else load_parser(self.parser)
        groups = [
            group_subjects(prompt) if parse is None else group_by_syntax(prompt, parse)
            for prompt in prompts
        ]
        return Misbinding(prompts, groups)

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        """At the most, since an image may have no pair."""
        own = super().count_rows(step, steps, rows)
        return Cost(own.forward, own.backward, exact=not self.descends(step, steps))


def group_subjects(prompt: PromptTokens) -> list[Group]:
    """The groups that the subjects are."""
    from asyndm.guidance.attention_losses import Group

    groups = []
    for words in prompt.words:
        noun, modifiers = split_phrase(words)
        if noun is not None and noun.tokens and modifiers:
            groups.append(Group(noun.tokens, tuple(word.tokens for word in modifiers)))
    return groups


def split_phrase(words: Sequence[Word]) -> tuple[Word | None, list[Word]]:
    """The noun of a phrase and its modifiers."""
    part: list[Word] = []
    for word in words:
        if part and PREPOSITIONS.fullmatch(word.text.lower()):
            break
        part.append(word)
    if not part:
        return None, []
    *before, noun = part
    said = [word for word in before if word.tokens and not SILENT.fullmatch(word.text.lower())]
    return noun, said


@lru_cache(maxsize=4)
def load_parser(name: str) -> Parse:
    """A model of spaCy.

    Raises:
        UserError: it or spaCy is not installed.
    """
    try:
        parse: Parse = import_module("spacy").load(name)
    except (ImportError, OSError) as error:
        raise UserError(
            f"guidance.parser={name}: spaCy or this model is not installed (pip install "
            f"'spacy>=3.7,<4'; python -m spacy download {name}); or choose guidance.parser=null"
        ) from error
    return parse


def group_by_syntax(prompt: PromptTokens, parse: Parse) -> list[Group]:
    """The groups of a prompt that a parser finds: each noun with the words that modify it, directly
    or in a row ("red and white"), and with what it is said to be ("the bag is blue")."""
    from asyndm.guidance.attention_losses import Group

    groups = []
    for token in parse(prompt.text):
        if token.pos_ not in ("NOUN", "PROPN") or token.dep_ in MODIFIERS:
            continue
        noun = prompt.find(token.idx, token.idx + len(token.text))
        words = [prompt.find(word.idx, word.idx + len(word.text)) for word in find_modifiers(token)]
        modifiers = tuple(word for word in words if word and word != noun)
        if noun and modifiers:
            groups.append(Group(noun, modifiers))
    return groups


def find_modifiers(noun: ParsedToken) -> list[ParsedToken]:
    """The words that modify a noun, in the order of the text."""
    found: list[ParsedToken] = []
    waiting = [child for child in noun.children if child.dep_ in MODIFIERS]
    if noun.dep_ in ("nsubj", "nsubjpass"):
        waiting += [child for child in noun.head.children if child.dep_ == "acomp"]
    while waiting:
        word = waiting.pop()
        found.append(word)
        waiting += [child for child in word.children if child.dep_ in MODIFIERS | {"conj"}]
    return sorted(found, key=lambda word: word.idx)
