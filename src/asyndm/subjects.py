"""Words and phrases of a prompt, and the positions of their tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyndm.errors import UserError, check_fraction, is_whole


@dataclass(frozen=True)
class Subject:
    """A word or phrase of the prompt whose region must align.

    Args:
        text: as in the prompt, whole words, in any case: "rabbit", "red car".
        concavity: its own ω in [0, 1]; None: that of the curve.
        occurrence: which of several equal words, from 1.
    """

    text: str
    concavity: float | None = None
    occurrence: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UserError(f"a subject must be a word or phrase of the prompt, got {self.text!r}")
        if self.concavity is not None:
            check_fraction(self.concavity, f"concavity of subject {self.text!r}")
        if not is_whole(self.occurrence) or self.occurrence < 1:
            raise UserError(f"occurrence of subject {self.text!r} must be 1 or more, got {self.occurrence!r}")

    @classmethod
    def parse(cls, text: str) -> Subject:
        """ "dog" or, for the second dog of the prompt, "dog#2"."""
        match = re.fullmatch(r"(.*\S)\s*#(\d+)", text)
        return cls(match[1], occurrence=int(match[2])) if match else cls(text)


def as_subject(subject: str | Subject) -> Subject:
    """A subject, whichever way it was written."""
    return subject if isinstance(subject, Subject) else Subject.parse(subject)


def locate(tokenizer: Any, prompt: str, subjects: Sequence[str | Subject]) -> list[list[int]]:
    """The positions of all tokens of each subject, in the sequence the text encoder sees.

    By character offsets: those of a fast tokenizer, or for a slow one the number of tokens before the
    subject's first and after its last character.

    Args:
        tokenizer: the pipeline's own, fast or slow.
        prompt: the text the subjects are words of.
        subjects: ``Subject`` or plain text ("dog", "dog#2").

    Raises:
        UserError: a subject that is not in the prompt, not that often, or beyond the text encoder's limit.
    """
    limit = tokenizer.model_max_length
    complete = tokenizer(prompt, verbose=False)["input_ids"]
    seen = tokenizer(prompt, truncation=True, max_length=limit)["input_ids"]
    positions = []
    for subject in map(as_subject, subjects):
        start, end = span(prompt, subject)
        tokens = _tokens_between(tokenizer, prompt, complete, start, end)
        if not tokens:
            raise UserError(
                f"subject {subject.text!r} has no token in the prompt {prompt!r}: choose another word"
            )
        if tokens[-1] >= len(seen) or seen[tokens[-1]] != complete[tokens[-1]]:
            raise UserError(
                f"subject {subject.text!r} lies beyond the {limit} tokens the text encoder reads: "
                f"shorten the prompt {_short(prompt)}"
            )
        positions.append(tokens)
    return positions


def span(prompt: str, subject: Subject) -> tuple[int, int]:
    """Where the wanted occurrence of a subject starts and ends in the prompt: whole words, any case, any space.

    Raises:
        UserError: it is not there, or not that often.
    """
    words = r"\s+".join(re.escape(word) for word in subject.text.split())
    found = list(re.finditer(rf"(?<!\w){words}(?!\w)", prompt, flags=re.IGNORECASE))
    if not found:
        raise UserError(
            f"subject {subject.text!r} is not in the prompt {_short(prompt)} (whole words, as written there)"
        )
    if subject.occurrence > len(found):
        raise UserError(
            f"subject {subject.text!r} occurs {len(found)} time(s) in the prompt {_short(prompt)}, "
            f"but occurrence {subject.occurrence} was asked for"
        )
    return found[subject.occurrence - 1].span()


def _tokens_between(tokenizer: Any, prompt: str, ids: list[int], start: int, end: int) -> list[int]:
    """Positions of the tokens that overlap the characters [start, end) of the prompt."""
    if tokenizer.is_fast:
        offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    leading = _count_leading_special(tokenizer, ids)
    plain = ids[leading:]
    before = tokenizer(prompt[:start].rstrip(), add_special_tokens=False, verbose=False)["input_ids"]
    through = tokenizer(prompt[:end], add_special_tokens=False, verbose=False)["input_ids"]
    if plain[: len(through)] != through or through[: len(before)] != before:
        raise UserError(
            f"the tokenizer does not split {_short(prompt)} at the word {prompt[start:end]!r}: use a fast tokenizer"
        )
    return list(range(leading + len(before), leading + len(through)))


def _count_leading_special(tokenizer: Any, ids: list[int]) -> int:
    """How many special tokens the tokenizer puts before the text."""
    special = set(tokenizer.all_special_ids)
    return next((i for i, token in enumerate(ids) if token not in special), len(ids))


def _short(text: str, length: int = 80) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")
