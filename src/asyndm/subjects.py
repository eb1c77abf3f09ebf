"""Words and phrases of a prompt, and the positions of their tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

from asyndm.errors import UserError, check_fraction, is_whole, say_once
from asyndm.protocols import Tokenizer
from asyndm.words import Span, find_occurrences


@dataclass(frozen=True)
class Subject:
    """A word or phrase of the prompt whose region must align.

    Args:
        text: as in the prompt, whole words, in any case: "rabbit", "red car".
        concavity: its own ω in [0, 1]; None: that of the curve.
        occurrence: which of several equal words, from 1.
        count: how many of it there are to be; None: as many as the words before it say ("two
            dogs"), else 1; see `asyndm.counts`.
        required: whether a prompt is refused in which the text encoder does not read it. What a
            rule finds is not required: it is left out while another subject remains.
        number: "#2" as it was written behind the text; where the prompt has both as written
            ("jersey #7") they are the subject.

    The last two are no part of what it is: subjects are equal, and known in files, without them.
    """

    text: str
    concavity: float | None = None
    occurrence: int = 1
    count: int | None = None
    required: InitVar[bool] = field(default=True, kw_only=True)
    number: InitVar[str] = field(default="", kw_only=True)

    def __post_init__(self, required: bool, number: str) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UserError(f"a subject must be a word or phrase of the prompt, got {self.text!r}")
        if self.concavity is not None:
            check_fraction(self.concavity, f"concavity of subject {self.text!r}")
        if not is_whole(self.occurrence) or self.occurrence < 1:
            raise UserError(
                f"occurrence of subject {self.text!r} must be 1 or more, got {self.occurrence!r}"
            )
        if self.count is not None and (not is_whole(self.count) or self.count < 1):
            raise UserError(
                f"count of subject {self.text!r} must be a whole number of at least 1, got "
                f"{self.count!r}"
            )
        object.__setattr__(self, "required", required)
        object.__setattr__(self, "number", number)

    @classmethod
    def parse(cls, text: str) -> Subject:
        """ "dog" or, for the second dog of the prompt, "dog#2"; of a prompt with "jersey #7" also
        that."""
        match = re.fullmatch(r"(.*\S)(\s*)#(\d+)", text)
        if not match or (match[2] and int(match[3]) == 0):  # "agent #0" can only be words
            return cls(text)
        return cls(match[1], occurrence=int(match[3]), number=text[match.end(1) :])


def as_subject(subject: str | Subject) -> Subject:
    """A subject, whichever way it was written."""
    return subject if isinstance(subject, Subject) else Subject.parse(subject)


def _get_init_only(subject: Subject, name: str) -> Any:
    """What a type checker takes for an argument only, though `replace` needs it kept."""
    return vars(subject)[name]


def as_written(prompt: str, subject: Subject) -> Subject:
    """The subject with its "#7" as part of its words, where the prompt has them so."""
    number = _get_init_only(subject, "number")
    words = f"{subject.text}{number}"
    if number and find_occurrences(prompt, words):
        return replace(subject, text=words, occurrence=1, number="")
    return subject


def find_subject(prompt: str, start: int, end: int) -> Subject | None:
    """The subject that is these words of the prompt, found by a rule; None where the words cannot
    be told from others."""
    words, place = prompt[start:end], Span(start, end)
    places = find_occurrences(prompt, words)
    return (
        Subject(words, occurrence=places.index(place) + 1, required=False)
        if place in places
        else None
    )


def find_span(prompt: str, subject: Subject) -> tuple[int, int]:
    """Where the wanted occurrence of a subject starts and ends in the prompt: whole words, however
    they are written.

    Case, kinds of spaces, quotes and dashes, composed or decomposed letters and their widths do not
    matter; words of scripts without spaces are whole anywhere, Korean nouns also before their
    particles.

    Raises:
        UserError: it is not there, or not that often.
    """
    subject = as_written(prompt, subject)
    found = find_occurrences(prompt, subject.text)
    if not found:
        raise UserError(
            f"subject {subject.text!r} is not in the prompt {_shorten(prompt)} (whole words, as "
            "written there)"
        )
    if subject.occurrence > len(found):
        raise UserError(
            f"subject {subject.text!r} occurs {len(found)} time(s) in the prompt "
            f"{_shorten(prompt)}, but occurrence {subject.occurrence} was asked for"
        )
    start, end = found[subject.occurrence - 1]
    return start, end


def locate(
    tokenizer: Tokenizer,
    prompt: str,
    subjects: Sequence[str | Subject],
    *,
    before: str = "",
    after: str = "",
    limit: int | None = None,
    special: bool = True,
) -> list[list[int]]:
    """The positions of all tokens of each subject, in the complete sequence of the text that is
    tokenised.

    By character offsets: those of a fast tokenizer, or for a slow one the number of tokens before
    the subject's first and after its last character.

    Args:
        tokenizer: the pipeline's own, fast or slow.
        prompt: the text the subjects are words of.
        subjects: ``Subject`` or plain text ("dog", "dog#2").
        before: what stands before the prompt, such as an instruction or the beginning of a chat; no
            subject is in it.
        after: what stands behind it.
        limit: how many tokens the text encoder reads: refuses or leaves out what is beyond, see
            `keep_reachable`.
        special: whether the tokenizer adds its own first and last tokens, which a template may have
            already.

    Raises:
        UserError: a subject that is not in the prompt, not that often, or beyond the limit.
    """
    text = before + prompt + after
    fast = bool(tokenizer.is_fast)
    read = tokenizer(text, add_special_tokens=special, return_offsets_mapping=fast, verbose=False)
    complete, positions = read["input_ids"], []
    for subject in map(as_subject, subjects):
        start, end = find_span(prompt, subject)
        place = len(before) + start, len(before) + end
        if fast:
            tokens = _find_tokens_at(tokenizer, complete, read["offset_mapping"], *place)
        else:
            tokens = _find_tokens_between(tokenizer, text, complete, *place)
        if not tokens:
            raise UserError(
                f"subject {subject.text!r} has no token in the prompt {prompt!r}: "
                "choose another word"
            )
        positions.append(tokens)
    if limit is None or len(complete) <= limit:
        return positions
    cut = tokenizer(text, add_special_tokens=special, truncation=True, max_length=limit)
    seen = cut["input_ids"]

    def map_position(position: int) -> int | None:
        return position if position < len(seen) and seen[position] == complete[position] else None

    return keep_reachable(prompt, subjects, positions, map_position, limit=limit)


def keep_reachable(
    prompt: str,
    subjects: Sequence[str | Subject],
    positions: Sequence[Sequence[int]],
    map_position: Callable[[int], int | None],
    *,
    limit: int | None = None,
) -> list[list[int]]:
    """Where the network attends to the tokens of each subject; an empty list for a subject that is
    left out.

    A subject of which a token is out of reach is left out, with a warning, if a rule found it and
    another subject remains.

    Args:
        prompt: the text the subjects are words of, for messages.
        subjects: as given to `locate`.
        positions: what `locate` returned.
        map_position: of a position of the complete sequence that which the network attends to,
            None for one it does not.
        limit: how many tokens the text encoder reads, for messages, where that is known.

    Raises:
        UserError: a required subject is out of reach, or no subject remains.
    """
    mapped = [[map_position(token) for token in tokens] for tokens in positions]
    kept = [
        [token for token in tokens if token is not None and None not in tokens] for tokens in mapped
    ]
    chosen = [as_subject(subject) for subject in subjects]
    beyond = [
        subject
        for subject, old, new in zip(chosen, positions, kept, strict=True)
        if old and not new
    ]
    tokens = "the tokens" if limit is None else f"the {limit} tokens"
    refused = [s for s in beyond if _get_init_only(s, "required") or not any(kept)]
    if refused:
        raise UserError(
            f"subject {refused[0].text!r} lies beyond {tokens} the text encoder reads: "
            f"shorten the prompt {_shorten(prompt)}"
        )
    if beyond:
        words = ", ".join(repr(spell(subject)) for subject in beyond)
        text = _shorten(prompt)
        say_once(f"left out {words}: beyond {tokens} the text encoder reads of {text}", prompt)
    return kept


def spell(subject: Subject) -> str:
    """The subject as `Subject.parse` reads it: "dog", or "dog#2" for the second one."""
    return subject.text if subject.occurrence == 1 else f"{subject.text}#{subject.occurrence}"


def _find_tokens_at(
    tokenizer: Tokenizer, ids: list[int], offsets: Sequence[tuple[int, int]], start: int, end: int
) -> list[int]:
    """Positions of a fast tokenizer's tokens that overlap the characters [start, end) of the
    text."""
    tokens = [i for i, (first, last) in enumerate(offsets) if max(first, start) < min(last, end)]
    # The space that a tokenizer puts before a text has the offsets of the first letter.
    while tokens and not tokenizer.convert_ids_to_tokens(ids[tokens[0]]).strip("▁Ġ "):
        del tokens[0]
    return tokens


def _find_tokens_between(
    tokenizer: Tokenizer, text: str, ids: list[int], start: int, end: int
) -> list[int]:
    """The same of a slow tokenizer, which does not say where its tokens stand."""
    plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    leading = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
    head = tokenizer(text[:start].rstrip(), add_special_tokens=False, verbose=False)["input_ids"]
    through = tokenizer(text[:end], add_special_tokens=False, verbose=False)["input_ids"]
    if plain[: len(through)] != through or through[: len(head)] != head:
        raise UserError(
            f"the tokenizer does not split {_shorten(text)} at the word {text[start:end]!r}: use a "
            "fast tokenizer"
        )
    return list(range(leading + len(head), leading + len(through)))


def _shorten(text: str, length: int = 80) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")
