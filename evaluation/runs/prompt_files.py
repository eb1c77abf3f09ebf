"""Prompts of one's own, from the files in which people keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from asyndm.errors import UserError
from asyndm.subjects import Subject
from evaluation.runs.prompts import Prompt, PromptSet, text_id
from evaluation.runs.rows import (
    csv_rows,
    existing,
    json_rows,
    jsonl_rows,
    numbers,
    read_text,
    texts,
    yaml_rows,
)


@dataclass(frozen=True)
class FilePrompts(PromptSet):
    """Prompts of one's own, from YAML or JSON (a list), JSON lines, or CSV with a header.

    A prompt is a text or a mapping with

    - ``text``, the only one that must be there;
    - ``subjects``: list of words or phrases ("dog#2" is the second dog); in CSV separated by ``;``;
    - ``concavities``: one number for each subject, else the curve's own is taken;
    - ``id`` (else made from the text), ``kind``, ``phrases`` (a list), ``phrases_from`` (where these came from),
      ``file`` (a picture of it, for ``evaluation.score``).
    """

    path: str
    limit: int | None = None

    KEYS: ClassVar[frozenset[str]] = frozenset(
        {"id", "text", "subjects", "concavities", "kind", "phrases", "phrases_from", "file"}
    )

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        return ((place, prompt) for place, _, prompt in self.rows())

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any], Prompt]]:
        """Each prompt, after its place and what the file says of it.

        Raises:
            UserError: a file that is missing or malformed, with its line.
        """
        path = existing(self.path, "prompt file")
        readers = {
            ".yaml": yaml_rows,
            ".yml": yaml_rows,
            ".json": json_rows,
            ".jsonl": jsonl_rows,
            ".csv": csv_rows,
        }
        if path.suffix.lower() not in readers:
            raise UserError(f"{path}: a prompt file ends in {', '.join(readers)}")
        for line, row in readers[path.suffix.lower()](path, read_text(path)):
            place, said = f"{path}, line {line}", {"text": row} if isinstance(row, str) else row
            try:
                prompt = self._prompt(said)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            yield place, said, prompt

    def _prompt(self, row: Any) -> Prompt:
        if not isinstance(row, Mapping):
            raise UserError(f"expected a text or a mapping with text and subjects, found {row!r}")
        if unknown := set(map(str, row)) - self.KEYS:
            raise UserError(f"unknown key {min(unknown)!r}; the keys are {', '.join(sorted(self.KEYS))}")
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError("text is missing")
        subjects = tuple(Subject.parse(subject) for subject in texts(row, "subjects"))
        concavities = numbers(row, "concavities")
        if concavities and len(concavities) != len(subjects):
            raise UserError(f"{len(concavities)} concavities for {len(subjects)} subjects")
        if concavities:
            subjects = tuple(replace(s, concavity=c) for s, c in zip(subjects, concavities, strict=True))
        prompt_id = text_id(text) if row.get("id") in (None, "") else str(row["id"])
        return Prompt(prompt_id, text, subjects, str(row.get("kind") or ""), texts(row, "phrases"))
