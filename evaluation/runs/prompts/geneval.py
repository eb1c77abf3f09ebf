"""GenEval's prompts, from a copy of its file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from asyndm.errors import UserError
from asyndm.subjects import find_subject
from asyndm.words import normalise
from evaluation.runs.prompts.plurals import find_mentions, list_forms
from evaluation.runs.prompts.rows import read_jsonl_rows
from evaluation.runs.prompts.sets import Prompt, PromptSet, make_text_id
from evaluation.runs.text_files import find_file, read_text, shorten


@dataclass(frozen=True)
class GenEvalPrompts(PromptSet):
    """GenEval's prompts (arXiv 2310.11513), from a copy of its ``evaluation_metadata.jsonl``.

    The kind of a prompt is its tag. Its subjects are the classes to include, wherever the text
    names them, in the singular or a plural; its phrases are these with the number or article and
    the colour before them.

    Attributes:
        metadata: path of that file.
    """

    metadata: str
    limit: int | None = None

    BEFORE: ClassVar[str] = "an?|the|one|two|three|four|five|six|seven|eight|nine|ten"

    @property
    def source(self) -> str:
        return self.metadata

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every line, after the place it comes from: a ``prompt``, a ``tag``, and a list
        ``include`` of mappings with ``class`` and perhaps ``color``.

        Raises:
            UserError: another one, with its line.
        """
        path = find_file(self.metadata, "metadata file")
        for line, row in read_jsonl_rows(path, read_text(path)):
            place = f"{path}, line {line}"
            if not isinstance(row, Mapping):
                raise UserError(
                    f"{place}: "
                    f"expected a mapping with tag, include and prompt, found {shorten(row)}"
                )
            for key in ("prompt", "tag"):
                if not isinstance(value := row.get(key), str) or not value.strip():
                    raise UserError(f"{place}: {key} is missing")
            if not isinstance(include := row.get("include"), list) or not include:
                raise UserError(f"{place}: include must be a list of things")
            for thing in include:
                named = isinstance(thing, Mapping) and isinstance(thing.get("class"), str)
                if (
                    not named
                    or not thing["class"].strip()
                    or not isinstance(thing.get("color", ""), str)
                ):
                    raise UserError(
                        f"{place}: include: "
                        f"expected a class and perhaps a color, found {shorten(thing)}"
                    )
            yield place, row

    def _all(self) -> Iterator[tuple[str, Prompt]]:
        for place, row in self.rows():
            text = row["prompt"].strip()
            colours = [
                re.escape(normalise(thing["color"]).text)
                for thing in row["include"]
                if "color" in thing
            ]
            before = "".join(
                rf"(?:(?:{words})\s+)?" for words in (self.BEFORE, "|".join(colours)) if words
            )
            names = [thing["class"].strip() for thing in row["include"]]
            spellings = set().union(*map(list_forms, names), map(_pluralize_as_geneval, names))
            found = [
                (subject, text[slice(*phrase)])
                for phrase, name in find_mentions(text, spellings, before)
                if (subject := find_subject(text, *name))
            ]
            subjects, phrases = zip(*found, strict=True) if found else ((), ())
            yield place, Prompt(make_text_id(text), text, subjects, row["tag"], phrases)


def _pluralize_as_geneval(name: str) -> str:
    """As that file has it: "toothbrushs", "knifes"."""
    return name + ("es" if name.endswith("s") else "s")
