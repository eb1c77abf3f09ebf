"""Which column of a list says what: by the names that people give them, and as a user names them.

A list is read whole, whoever made it: what has another name is left alone, unless it looks like one
of ours, mistyped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from asyndm.errors import UserError, is_number
from evaluation.runs.prompts.rows import read_list_rows
from evaluation.runs.text_files import shorten

USUAL: dict[str, tuple[str, ...]] = {
    "text": ("text", "prompt", "prompts", "caption", "captions", "sentence"),
    "id": ("id", "prompt_id"),
    "kind": ("kind", "category", "tag", "type", "challenge"),
    "subjects": ("subjects",),
    "concavities": ("concavities",),
    "subject_counts": ("subject_counts",),
    "phrases": ("phrases", "noun_phrases"),
    "phrases_from": ("phrases_from",),
    "negative_prompt": ("negative_prompt", "neg_prompt", "negative"),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "file": (
        *(
            "file",
            "file_name",
            "filename",
            "file_path",
            "filepath",
            "image",
            "image_path",
            "image_file",
            "image_name",
        ),
        *("img", "img_path", "path", "picture"),
    ),
}
"""What a row may say, and the names of the column that says it; of several that are there the
first."""
MISTAKEN = tuple(key for key in USUAL if key not in ("file", "phrases_from", "subject_counts"))
"""Those of which a prompt would silently be another without them, and whose names say nothing
else."""
LONGER = ("negative_prompt", "seed")
"""Those that people call by longer names."""
PROMPT_SET = "prompt_set.columns"
"""The setting that names the columns of a prompt set's file."""


@dataclass(frozen=True)
class Entry:
    """An entry of a list, such as a row of a table.

    Attributes:
        place: its file and line, for messages.
        said: what it says, as it stands there.
        known: of that, what `USUAL` has, by the names there.
        setting: which one names the columns, for messages; None: none does.
    """

    place: str
    said: Mapping[str, object]
    known: dict[str, object]
    setting: str | None = PROMPT_SET


@dataclass
class Columns:
    """The columns of one list.

    Attributes:
        named: key of `USUAL` -> the column that says it, where the user named one; an empty name:
            none does.
        setting: by which it did, for messages; None: there is none, and columns are renamed.
        reads: what of `USUAL` is read of the list: a name that looks like another one matters to
            nobody.
    """

    named: Mapping[str, str]
    setting: str | None = PROMPT_SET
    reads: Collection[str] = MISTAKEN
    _found: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.named) - set(USUAL)):
            raise UserError(
                f"{self.setting}.{unknown[0]}: no such column; choose from {', '.join(USUAL)}"
            )

    def knows(self, name: str) -> bool:
        """Whether this is the name of a column."""
        usual = (other for key, names in USUAL.items() if key not in self.named for other in names)
        own = {*self.named.values()} - {""}
        return name.strip() in own or _normalize(name) in usual

    def of(self, header: tuple[str, ...]) -> dict[str, str]:
        """Key of `USUAL` -> the column of a row of these columns that says it.

        Raises:
            UserError: a name that looks like one of ours, mistyped.
        """
        if header not in self._found:
            self._found[header] = self._find(header)
        return self._found[header]

    def check(self) -> None:
        """Refuse a column that the user named and no row had."""
        had = {name: None for header in self._found for name in header}
        if missed := next(
            (key for key, name in self.named.items() if name and name not in had), None
        ):
            raise UserError(
                f"{self.setting}.{missed}={self.named[missed]}: no such column; choose from "
                f"{', '.join(had)}"
            )

    def _find(self, header: Sequence[str]) -> dict[str, str]:
        plain = {_normalize(name): name for name in reversed(header)}
        if (text := self.named.get("text", "")) and text not in header:
            raise UserError(
                f"{self.setting}.text={text}: no such column; choose from {', '.join(header)}"
            )
        found = {}
        for key, usual in USUAL.items():
            own = self.named.get(key)
            if own and own in header:
                found[key] = own
            elif own is None and (
                name := next((plain[name] for name in usual if name in plain), None)
            ):
                found[key] = name
        absent = [
            key
            for key in MISTAKEN
            if key in self.reads and key not in found and key not in self.named
        ]
        known = {name for names in USUAL.values() for name in names} | {
            *map(_normalize, found.values())
        }
        for name in plain.keys() - known:
            if (meant := _guess_key(name, absent)) is not None:
                raise UserError(
                    f"unknown key {shorten(plain[name])}: did you mean {meant!r}? "
                    f"{self._remedy(meant, plain[name])}"
                )
        return found

    def _remedy(self, key: str, name: str) -> str:
        if self.setting is None:
            return "Then call it that, else something less like it"
        return f"Then add {self.setting}.{key}={name}; if not, {self.setting}.{key}="


def read_list(path: Path, own: Columns) -> Iterator[Entry]:
    """The entries of a list of any format; a text that stands alone is a row's ``text``.

    Raises:
        UserError: a malformed file or row, with its line; a column the user named that no row has.
    """
    for line, said in read_list_rows(path, own.knows):
        place = f"{path}, line {line}"
        if isinstance(said, str):
            yield Entry(place, {"text": said}, {"text": said}, own.setting)
            continue
        if not isinstance(said, Mapping):
            raise UserError(
                f"{place}: "
                f"expected a text or a mapping with text and subjects, found {shorten(said)}"
            )
        try:
            found = own.of(tuple(map(str, said)))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        by_name = {str(name): value for name, value in said.items()}
        yield Entry(place, said, {key: by_name[name] for key, name in found.items()}, own.setting)
    try:
        own.check()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def require_text(entry: Entry, key: str = "text") -> str:
    """The text that an entry must have.

    Raises:
        UserError: there is none; it names the columns that there are.
    """
    value = entry.known.get(key)
    if isinstance(value, str) and value.strip():
        return value
    if key in entry.known:
        wrong = value is not None and not isinstance(value, str)
        raise UserError(
            f"{key} must be a text, not {shorten(value)}" if wrong else f"{key} is missing"
        )
    usual, there = ", ".join(USUAL[key]), ", ".join(map(str, entry.said))
    remedy = "call one so" if entry.setting is None else f"name it, {entry.setting}.{key}=..."
    alone = key == "text" and len(entry.said) == 1
    hint = "; a text with a colon is quoted, a list without header ends in .txt" if alone else ""
    raise UserError(
        f"{key} is missing: none of {usual} among its columns ({there}); {remedy}{hint}"
    )


def read_texts(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    """A list of texts, or the same in one cell, separated by ``;``."""
    value = row.get(key) or ()
    items = [part for part in value.split(";") if part.strip()] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise UserError(f"{key} must be a list of texts, not {shorten(value)}")
    return tuple(item.strip() for item in items)


def read_numbers(row: Mapping[str, object], key: str) -> tuple[float, ...]:
    """A list of numbers, or the same in one cell, separated by ``;``."""
    value = row.get(key)
    if value in (None, ""):
        return ()
    items = value.split(";") if isinstance(value, str) else [value] if is_number(value) else value
    try:
        if not isinstance(items, Iterable):
            raise TypeError
        return tuple(float(item) for item in items)
    except (TypeError, ValueError) as error:
        hint = (
            ' (in a cell with a decimal point, separated by ";")' if isinstance(value, str) else ""
        )
        raise UserError(f"{key} must be a list of numbers{hint}, not {shorten(value)}") from error


def read_whole(row: Mapping[str, object], key: str) -> int | None:
    """A whole number, also as other programs write it ("5.0"); None where the row says nothing."""
    value = row.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and (
        digits := re.fullmatch(r"\s*([+-]?\d{1,30})(?:\.0*)?\s*", value)
    ):
        return int(digits[1])
    if is_number(value) and value == value // 1:
        return int(value)
    raise UserError(f"{key} must be a whole number, not {shorten(value)}")


def _normalize(name: str) -> str:
    """A name as it counts: "Negative Prompt" is negative_prompt."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _guess_key(name: str, keys: Sequence[str]) -> str | None:
    """Which of these keys a name looks like: "noise_seed" is a kind of seed. Short words look like
    many, and the first letter is seldom wrong."""
    if key := next((key for key in LONGER if key in keys and name.endswith(f"_{key}")), None):
        return key
    close = get_close_matches(name, [key for key in keys if key[:1] == name[:1]], n=1, cutoff=0.8)
    return close[0] if close and (len(name) > 3 or close == ["text"]) else None
