"""Prompts of one's own, from the files in which people keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from asyndm.errors import UserError
from asyndm.subjects import Subject
from evaluation.runs.prompts.columns import (
    PROMPT_SET,
    Columns,
    Entry,
    read_list,
    read_numbers,
    read_texts,
    read_whole,
    require_text,
)
from evaluation.runs.prompts.sets import Prompt, PromptSet, make_text_id
from evaluation.runs.text_files import find_file, shorten


@dataclass(frozen=True)
class FilePrompts(PromptSet):
    """Prompts of one's own, from YAML or JSON (a list), JSON lines, CSV or TSV with a header
    (commas, semicolons and tabs are noticed), or plain text (a prompt a line, the same line once).

    A prompt is a text or a mapping with

    - ``text``, the only one that must be there;
    - ``subjects``: list of words or phrases ("dog#2" is the second dog); in a table separated by
      ``;``;
    - ``concavities``: one number for each subject, else the curve's own is taken;
    - ``subject_counts``: how many there are of each, else as the words before it say;
    - ``id`` (else made from the text, and its seed where it has one), ``kind``, ``phrases`` (a
      list), ``phrases_from`` (where these came from), ``file`` (a picture of it, for
      ``evaluation.score``);
    - ``negative_prompt``, else the guidance's; ``seed`` of its first image, else the run's.

    Others' names for these are known, in any case (``Prompt``, ``Category``;
    `evaluation.runs.prompts.columns.USUAL`), and what says something else is left alone.

    Attributes:
        path: of the file.
        columns: names of columns that have others: ``{"text": "long prompt"}``; an empty name:
            there is none.
    """

    path: str
    limit: int | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)

    setting: ClassVar[str | None] = PROMPT_SET
    """By which a user names columns, for messages; None: by none."""

    @property
    def source(self) -> str:
        return self.path

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        return ((place, prompt) for place, _, prompt in self.rows())

    def rows(self) -> Iterator[tuple[str, Mapping[str, object], Prompt]]:
        """Each prompt, after its place and what the file says of it.

        Raises:
            UserError: a file that is missing or malformed, with its line.
        """
        path = find_file(self.path, "prompt file")
        named = {key: name for key, name in self.columns.items() if name is not None}
        for entry in read_list(path, Columns(named, self.setting)):
            try:
                prompt = _make_prompt(entry)
            except UserError as error:
                raise UserError(f"{entry.place}: {error}") from error
            yield entry.place, entry.said, prompt


def _make_prompt(entry: Entry) -> Prompt:
    text, known = require_text(entry), entry.known
    subjects = tuple(Subject.parse(subject) for subject in read_texts(known, "subjects"))
    concavities, counts = (read_numbers(known, name) for name in ("concavities", "subject_counts"))
    for values, name in ((concavities, "concavities"), (counts, "subject_counts")):
        if values and len(values) != len(subjects):
            raise UserError(f"{len(values)} {name} for {len(subjects)} subjects")
    if concavities:
        subjects = tuple(
            replace(s, concavity=c) for s, c in zip(subjects, concavities, strict=True)
        )
    if counts:
        if not all(count.is_integer() for count in counts):
            raise UserError(f"subject_counts must be whole numbers, not {shorten(counts)}")
        subjects = tuple(replace(s, count=int(n)) for s, n in zip(subjects, counts, strict=True))
    seed = read_whole(known, "seed")
    own_id = make_text_id(text) + ("" if seed is None else f"-{seed}")
    prompt_id = own_id if known.get("id") in (None, "") else str(known["id"])
    negative = known.get("negative_prompt")
    if not isinstance(negative, str | None):
        raise UserError(f"negative_prompt must be a text, not {shorten(negative)}")
    try:
        return Prompt(
            prompt_id,
            text,
            subjects,
            str(known.get("kind") or ""),
            read_texts(known, "phrases"),
            negative if negative and negative.strip() else None,
            seed,
        )
    except UserError as error:
        cell = known.get("subjects")
        if isinstance(cell, str) and "," in cell and f"subject {cell.strip()!r}" in str(error):
            raise UserError(f'{error}; if these are several, separate them by ";"') from error
        raise
