"""Where the words of a prompt are among its tokens, for guidances that look at each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks import Family
from asyndm.protocols import Arguments, Pipeline
from asyndm.subjects import Subject, find_span, find_subject

WORD = re.compile(r"[^\s,;]+")


@dataclass(frozen=True)
class Word:
    """A word of a subject and its token positions."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as CLIP reads it: a start, its tokens, an end, and padding.

    Args:
        text: the prompt.
        subjects: of each subject, its token positions.
        words: of each subject, its words: of "red circle" "red", then "circle".
        end: the position of the token that ends the text.
        length: of the text with its padding.
        find: from the characters [start, end) of the text to the positions of their tokens; none
            where these words cannot be told from others, or are not read.
    """

    text: str
    subjects: tuple[tuple[int, ...], ...]
    words: tuple[tuple[Word, ...], ...]
    end: int
    length: int
    find: Callable[[int, int], tuple[int, ...]] = field(repr=False, compare=False)


def read_prompt_tokens(
    family: Family,
    pipe: Pipeline,
    prompt: str,
    subjects: Sequence[Subject],
    arguments: Arguments,
) -> PromptTokens:
    """The tokens of a prompt and of its subjects' words.

    Raises:
        UserError: a subject that is not in the prompt.
    """

    def find(start: int, end: int) -> tuple[int, ...]:
        subject = find_subject(prompt, start, end)
        if subject is None:
            return ()
        try:
            return tuple(family.positions(pipe, prompt, [subject], Reading(), arguments)[0])
        except UserError:  # beyond what the text encoder reads
            return ()

    def split(subject: Subject) -> tuple[Word, ...]:
        start, end = find_span(prompt, subject)
        spans = [match.span() for match in WORD.finditer(prompt, start, end)]
        return tuple(Word(prompt[slice(*span)], find(*span)) for span in spans)

    places = family.positions(pipe, prompt, subjects, Reading(), arguments)
    tokenizer = pipe.tokenizer or pipe.tokenizer_2
    spelled = pipe.maybe_convert_prompt(prompt, tokenizer)
    length = int(tokenizer.model_max_length)
    read = tokenizer(spelled, truncation=True, max_length=length)["input_ids"]
    return PromptTokens(
        prompt,
        tuple(tuple(each) for each in places),
        tuple(split(subject) for subject in subjects),
        len(read) - 1,
        length,
        find,
    )
