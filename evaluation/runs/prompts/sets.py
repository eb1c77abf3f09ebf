"""Prompt sets: what is drawn, and which words of it are the subjects.

Every set is a small dataclass with `load`. A prompt is known by its `prompt_id`, never by its place
in a list, so that runs over different selections of the same prompts can still be compared.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Self

from asyndm.errors import UserError, is_number, is_whole
from asyndm.subjects import Subject, as_written, find_span
from asyndm.words import find_occurrences
from evaluation.runs.text_files import find_file, parse_json, read_text, shorten

PROMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
WORD = re.compile(r"\w+")
OWN = ("negative_prompt", "seed")
"""What few prompts have of their own."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        prompt_id: letters, digits, dot, dash and underscore, at most 80; it names files.
        text: what the model reads.
        subjects: words or phrases of the text whose regions are denoised on the curve; may be
            empty.
        kind: a label to report by ("two", "counting").
        phrases: noun phrases, for metrics that ask about each.
        negative_prompt: what guidance leads away from; None: whatever the run's guidance says.
        seed: of its first image, its others count on; None: by the run's seed.

    Raises:
        UserError: an id that cannot name a file, an empty text, a subject that is not in the text,
            a seed out of range.
    """

    prompt_id: str
    text: str
    subjects: tuple[Subject, ...] = ()
    kind: str = ""
    phrases: tuple[str, ...] = ()
    negative_prompt: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not PROMPT_ID.fullmatch(self.prompt_id):
            raise UserError(
                f"id {shorten(self.prompt_id)}: "
                "use 1 to 80 letters, digits, dots, dashes and underscores"
            )
        if not self.text.strip():
            raise UserError(f"prompt {self.prompt_id}: its text is empty")
        if self.seed is not None and (not is_whole(self.seed) or not 0 <= self.seed < 2**63):
            raise UserError(
                f"prompt {self.prompt_id}: seed {self.seed!r} is not from 0 to 2^63 - 1"
            )
        subjects = tuple(as_written(self.text, subject) for subject in self.subjects)
        for subject in subjects:
            find_span(self.text, subject)
        object.__setattr__(self, "subjects", subjects)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON."""
        subjects = tuple(Subject(**subject) for subject in entry["subjects"])
        own = {name: entry.get(name) for name in OWN}
        return cls(
            entry["prompt_id"],
            entry["text"],
            subjects,
            entry["kind"],
            tuple(entry["phrases"]),
            **own,
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; a negative prompt, a seed and the count of a subject only
        where it has them."""
        entry = asdict(self)
        for subject in entry["subjects"]:
            if subject["count"] is None:
                del subject["count"]
        return {
            name: value for name, value in entry.items() if name not in OWN or value is not None
        }


class PromptSet(ABC):
    """Where prompts come from. A subclass is a dataclass; its fields are its settings."""

    limit: int | None

    def load(self) -> list[Prompt]:
        """The prompts, the first `limit` of them where a limit is set; ids are unique.

        Raises:
            UserError: a file that is missing or malformed (with its line), two prompts of one id,
                nothing selected.
        """
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit}: must be at least 1, or null for all prompts")
        prompts: dict[str, Prompt] = {}
        places: dict[str, str] = {}
        for place, prompt in self._all():
            key = prompt.prompt_id
            if key in prompts:
                raise UserError(
                    f"{place}: same id as {places[key]} ({key}): leave one of the two out, or give "
                    "it its own id"
                )
            prompts[key], places[key] = prompt, place
        if not prompts:
            raise UserError(f"{self.source}: no prompts")
        return list(prompts.values())[: self.limit]

    @property
    def source(self) -> str:
        """Where they come from, for messages."""
        return str(self)

    @abstractmethod
    def _all(self) -> Iterator[tuple[str, Prompt]]:
        """All prompts, in a fixed order, each after the place it comes from (for messages)."""


@dataclass(frozen=True)
class ShapesPrompts(PromptSet):
    """The embedded world's prompts. The kinds take turns, so that any `limit` keeps their balance.

    Attributes:
        split: "train", "val" or "test".
        kinds: some of `asyndm.shapes.world.KINDS`; None for all.
    """

    split: str = "test"
    kinds: Sequence[str] | None = None
    limit: int | None = None

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        from asyndm.shapes import world

        kinds = world.KINDS if self.kinds is None else self.kinds
        try:
            specs = world.take_turns(self.split, kinds)
        except ValueError as error:
            raise UserError(str(error)) from error
        for spec in specs:
            subjects = tuple(Subject(text) for text in spec.subjects)
            prompt_id = f"{spec.kind}-{spec.digest[:12]}"
            prompt = Prompt(prompt_id, spec.text, subjects, spec.kind, spec.phrases)
            yield f"kind {spec.kind!r}, prompt {spec.text!r}", prompt


@dataclass(frozen=True)
class AnimalActivity(PromptSet):
    """ "a {animal} {activity}" for every animal and activity, in an order that mixes both. The noun
    phrases are the animal with its article and what follows the activity's verb: "a bear", "the
    guitar".

    Attributes:
        animals: nouns.
        activities: the activity's words -> the word or phrase of it that is the second subject
            ("playing basketball": "basketball").
    """

    animals: Sequence[str]
    activities: Mapping[str, str]
    limit: int | None = None

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        prompts = []
        for animal, (activity, thing) in product(self.animals, self.activities.items()):
            article = "an" if animal[:1].lower() in tuple("aeiou") else "a"
            text = f"{article} {animal} {activity}"
            phrases = (f"{article} {animal}", activity.partition(" ")[2] or thing)
            prompts.append(
                Prompt(
                    make_text_id(text), text, (Subject(animal), Subject(thing)), activity, phrases
                )
            )
        prompts.sort(key=lambda prompt: hashlib.sha256(prompt.text.encode()).digest())
        return ((f"animals and activities, prompt {prompt.text!r}", prompt) for prompt in prompts)


@dataclass(frozen=True)
class ReferencePrompts(PromptSet):
    """The two JSON files of the AsynDM reference implementation.

    `prompts_path` is a list of prompts; `items_path` maps each of them, under "item_idx", to the
    places of its subjects among its words (counted from 0; a word is a run of letters and digits,
    so "cross-section" is two) and, under "item_k", to a concavity for each.

    The reference turns a place into a token by adding one, which reads another token wherever an
    earlier word has several pieces; here the word itself is the subject, and all its pieces are
    found in the text.

    Attributes:
        concavities: take over the concavities of the file; False (the default) uses the curve's for
            all.
    """

    prompts_path: str
    items_path: str
    concavities: bool = False
    limit: int | None = None

    @property
    def source(self) -> str:
        return self.prompts_path

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        texts = _read_json(self.prompts_path, "prompt file")
        items = _read_json(self.items_path, "item file")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.prompts_path}: expected a JSON list of prompts")
        places = items.get("item_idx") if isinstance(items, dict) else None
        if not isinstance(places, dict):
            raise UserError(f'{self.items_path}: expected {{"item_idx": {{prompt: [places]}}}}')
        concavities = items.get("item_k") or {}
        if not isinstance(concavities, dict):
            raise UserError(f'{self.items_path}: expected {{"item_k": {{prompt: [concavities]}}}}')
        for text in dict.fromkeys(texts):
            place = f"{self.prompts_path}, prompt {shorten(text)}"
            if not isinstance(places.get(text), list):
                raise UserError(
                    f"{self.items_path}: item_idx has no list for the prompt {shorten(text)}"
                )
            subjects = [self._subject(text, place) for place in places[text]]
            if self.concavities:
                subjects = self._with_concavities(subjects, text, concavities.get(text))
            try:
                prompt = Prompt(make_text_id(text), text.strip(), tuple(subjects))
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            yield place, prompt

    def _subject(self, text: str, place: object) -> Subject:
        words = list(WORD.finditer(text))
        if not is_whole(place) or not 0 <= place < len(words):
            raise UserError(
                f"{self.items_path}: {shorten(place)} is not the place of a word in "
                f"{shorten(text)} (0 to {len(words) - 1})"
            )
        start, word = words[place].start(), words[place][0]
        before = [found for found in find_occurrences(text, word) if found.start < start]
        return Subject(word, occurrence=len(before) + 1)

    def _with_concavities(
        self, subjects: list[Subject], text: str, values: object
    ) -> list[Subject]:
        numbers = values if isinstance(values, list) and all(map(is_number, values)) else None
        if numbers is None or len(numbers) != len(subjects):
            raise UserError(
                f"{self.items_path}: item_k needs {len(subjects)} numbers for the prompt {text!r}"
            )
        try:
            return [
                replace(s, concavity=float(value))
                for s, value in zip(subjects, numbers, strict=True)
            ]
        except UserError as error:
            raise UserError(f"{self.items_path}, prompt {shorten(text)}: {error}") from error


def _read_json(path: str, what: str) -> Any:
    file = find_file(path, what)
    return parse_json(file, read_text(file))


def make_text_id(text: str) -> str:
    """A prompt's id from its text: a readable beginning and a hash, the same wherever the text
    stands."""
    text = text.strip()
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest
