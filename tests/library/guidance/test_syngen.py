"""SynGen: which words are pairs, and that without any it is CFG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from asyndm import DynamicMask, Mask, NoMask
from asyndm.errors import UserError
from asyndm.guidance.attention_losses import Group
from asyndm.guidance.prompts import PromptTokens, Word
from asyndm.guidance.syngen import (
    SynGen,
    find_modifiers,
    group_by_syntax,
    group_subjects,
    load_parser,
    split_phrase,
)
from tests.library.guidance.combining import (
    MASKS,
    check_cost,
    count_rows,
    sample_latents,
    sample_tiny,
)
from tests.library.test_sampler import measure_distance
from tests.pipelines.registry import PIPELINES

ALONE = 1e-5
"""As in `test_attend_and_excite`."""


def spell(phrase: str) -> list[Word]:
    """Words of one token each, from position 1."""
    return [Word(text, (i,)) for i, text in enumerate(phrase.split(), 1)]


@pytest.mark.parametrize(
    ("phrase", "noun", "modifiers"),
    [
        ("red circle", "circle", "red"),
        ("circle", "circle", ""),
        ("a shiny red sports car", "car", "shiny red sports"),
        ("Two black and white cats", "cats", "black white"),
        ("3 apples", "apples", ""),
        ("tall glass of red wine", "glass", "tall"),
        ("the", "the", ""),
    ],
)
def test_the_last_word_of_a_phrase_is_its_noun(phrase: str, noun: str, modifiers: str) -> None:
    found, said = split_phrase(spell(phrase))
    assert found is not None and found.text == noun
    assert [word.text for word in said] == modifiers.split()


def test_each_phrase_is_a_group() -> None:
    words = (tuple(spell("big red dog")), (Word("blue", (6,)), Word("rabbit", (7, 8))), ())
    prompt = PromptTokens("", ((1, 2, 3),), words, 9, 10, lambda start, end: ())
    assert group_subjects(prompt) == [Group((3,), ((1,), (2,))), Group((7, 8), ((6,),))]


@dataclass
class Token:
    """A token as spaCy has it."""

    idx: int
    text: str
    pos_: str
    dep_: str
    children: list[Token] = field(default_factory=list)
    head: Any = None


def parse(text: str, tags: Sequence[tuple[str, str, int]]) -> list[Token]:
    """Tokens of the words of a text: part of speech, relation, and place of the head."""
    starts = [len(" ".join(text.split()[:i])) + (i > 0) for i in range(len(text.split()))]
    words = zip(starts, text.split(), tags, strict=True)
    tokens = [Token(start, word, pos, dep) for start, word, (pos, dep, _) in words]
    for token, (_, _, head) in zip(tokens, tags, strict=True):
        token.head = tokens[head]
        if tokens[head] is not token:
            tokens[head].children.append(token)
    return tokens


SENTENCE = "a red and white ball near the sports car is shiny"
TAGS = [
    ("DET", "det", 4),
    ("ADJ", "amod", 4),
    ("CCONJ", "cc", 1),
    ("ADJ", "conj", 1),
    ("NOUN", "nsubj", 9),
    ("ADP", "prep", 4),
    ("DET", "det", 8),
    ("NOUN", "compound", 8),
    ("NOUN", "pobj", 5),
    ("AUX", "ROOT", 9),
    ("ADJ", "acomp", 9),
]


def test_words_modify_directly_in_a_row_or_by_what_is_said() -> None:
    tokens = parse(SENTENCE, TAGS)
    assert [word.text for word in find_modifiers(tokens[4])] == ["red", "white", "shiny"]
    assert [word.text for word in find_modifiers(tokens[8])] == ["sports"]


def find_words(start: int, end: int) -> tuple[int, ...]:
    """One token a word, from position 1."""
    return (1 + SENTENCE[:start].count(" "),)


def test_a_parser_finds_the_groups_of_the_prompt() -> None:
    prompt = PromptTokens(SENTENCE, (), (), 12, 13, find_words)
    expected = [Group((5,), ((2,), (4,), (11,))), Group((9,), ((8,),))]
    assert group_by_syntax(prompt, lambda text: parse(text, TAGS)) == expected


def test_documents_of_spacy_are_read_alike() -> None:
    spacy = pytest.importorskip("spacy")
    tokens: Any = pytest.importorskip("spacy.tokens")
    positions, relations, heads = zip(*TAGS, strict=True)
    document = tokens.Doc(
        spacy.blank("en").vocab,
        words=SENTENCE.split(),
        pos=list(positions),
        deps=list(relations),
        heads=list(heads),
    )
    prompt = PromptTokens(SENTENCE, (), (), 12, 13, find_words)
    expected = group_by_syntax(prompt, lambda text: parse(text, TAGS))
    assert group_by_syntax(prompt, lambda text: document) == expected


def test_a_parser_that_is_not_there_is_named(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"guidance\.parser=no_such_model: spaCy or this model is"):
        load_parser("no_such_model")
    with pytest.raises(UserError, match="choose guidance.parser=null"):
        sample_latents(pipe, SynGen(parser="no_such_model"), mask=NoMask())
    with pytest.raises(UserError, match="guidance.parser must be the name of a spaCy model"):
        SynGen(parser="")


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_a_step_it_is_cfg(pipe: Any, mask: Mask, eta: float) -> None:
    neutral = SynGen(step_size=0.0)
    latents, records = sample_latents(pipe, neutral, mask=mask, eta=eta)
    assert torch.equal(latents, sample_latents(pipe, mask=mask, eta=eta)[0])
    check_cost(neutral, records)


def test_an_image_is_the_same_in_any_batch_and_without_pairs_that_of_cfg(pipe: Any) -> None:
    """Of the two prompts the first has a pair."""
    settings: dict[str, Any] = {"mask": DynamicMask()}
    alone, records = sample_latents(pipe, SynGen(), batch_invariant=True, **settings)
    together, both = sample_latents(pipe, SynGen(), batch_invariant=False, **settings)
    assert count_rows(both) == count_rows(records) == (2 * 8 + 2, 2)
    plain = sample_latents(pipe, **settings)[0]
    assert measure_distance(together, alone) <= ALONE
    assert measure_distance(alone[0], plain[0]) > 10 * ALONE
    assert torch.equal(alone[1], plain[1])
    assert records[-1].backward_evaluations == 0


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_its_cost_is_counted(name: str) -> None:
    tiny, guidance = PIPELINES[name], SynGen()
    last = sample_tiny(tiny.build(), tiny, guidance, mask=DynamicMask())[1][-1]
    cost = guidance.cost(4)
    assert not cost.exact and (cost.forward, cost.backward) == (10, 2)
    assert (last.evaluations, last.backward_evaluations) == (10, 2)


def test_its_step_stays_as_large() -> None:
    assert SynGen().find_step_size(1, 50) == SynGen().find_step_size(25, 50) == 20


def test_its_label_has_the_parser() -> None:
    assert SynGen(7.5).label == "syngen 20 7.5"
    assert SynGen(7.5, parser="en_core_web_trf").label == "syngen 20 parser=en_core_web_trf 7.5"
