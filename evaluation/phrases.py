"""Fills in the noun phrases of a prompt file, which BLIP-VQA asks about, and says where they came
from.

    python -m evaluation.phrases prompts.yaml  # the completed file on standard output
    python -m evaluation.phrases prompts.csv --out complete.jsonl --with rule

A file is one that ``prompt_set=file`` takes (YAML, JSON, JSONL, CSV, TSV, plain text). Prompts that
have phrases keep them; the others get those of spaCy where it and its model en_core_web_sm are
installed, as T2I-CompBench (arXiv 2307.06350) takes them, else those of a rule. ``phrases_from`` is
then "spaCy MODEL VERSION", "rule 1", or "given" where it said nothing. Comments of YAML are lost.

Rule 1, for plain English descriptions. The text is cut at

- punctuation, but for a comma between two adjectives ("the soft, fluffy pillow": an article and one
  word before, two words without article after it);
- conjunctions, prepositions, and relations such as "left of" and "next to";
- forms of "to be"; what follows one without an article is said of the subject and is no phrase
  ("the sky is blue");
- words in -ing unless they follow an article or are among some known nouns ("a bear playing the
  guitar", "a running dog", "a tall building"), words in -ed before a preposition ("a table covered
  with"), and some common verbs.

A phrase begins at an article, a number or a possessive, or else after a cut, and ends before the
next cut. What begins with a pronoun, and mere places ("the left"), are dropped; of equal phrases
the first is kept. Verbs that are not known stay in the phrase before them ("a cat yawns"), and an
-ing word after an adjective is taken for a verb.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.commands import Parser, command_line
from evaluation.metrics.blip_vqa import PLACES
from evaluation.runs.files import write_bytes
from evaluation.runs.prompts import FilePrompts

MODEL = "en_core_web_sm"
RULE = "rule 1"

TOKEN = re.compile(
    r"\b(?:next|close) to\b|\b(?:left|right|top|bottom|front|back|side|middle|center|centre) of\b"
    r"|\w[\w'’-]*|[^\w\s]",
    re.IGNORECASE,
)


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


BE = _split("is are was were be been being am")
JOINING = frozenset(["and", "or", ","])
LINKS = BE | _split(
    "and or but while as when where in on at under underneath above below beneath beside besides "
    "near behind between among around against across along through over inside outside into onto "
    "upon within beyond of off from to toward towards with without by for during like"
)
VERBS = _split(
    "has have had sit sits sat stand stands stood lies lay rests hang hangs hung leans hold holds "
    "held wear wears wore hidden eats ate plays reads drives rides runs flies swims sleeps walks "
    "jumps chases looks"
)
DETERMINERS = _split(
    "a an the this these those my your his her its our their some any many several few both all "
    "each every another no one two three four five six seven eight nine ten eleven twelve"
)
PRONOUNS = _split(
    "i you he she it we they me him us them who which that what there someone something itself "
    "himself herself themselves"
)
EMPTY = _split("left right top bottom front back side middle center centre other others")
NOUNS = _split(
    "building ceiling painting ring king wing string spring thing clothing earring evening "
    "morning swing sling duckling dumpling pudding wedding railing awning stocking icing living "
    "dining rocking"
)


def find_by_rule(text: str) -> list[str]:
    """The noun phrases of a text by rule 1."""
    tokens = list(TOKEN.finditer(text))
    words = [token.group().lower() for token in tokens]
    pieces: list[list[int]] = [[]]
    predicate = False
    for i, word in enumerate(words):
        so_far = [words[j] for j in pieces[-1]]
        after = words[i + 1 : i + 3]
        if word == "," and _between_adjectives(so_far, after):
            continue
        before = so_far[-1] if so_far else ""
        if _cuts(word, before, after[0] if after else ""):
            pieces.append([])
            predicate = before != "there" if word in BE else predicate and word in JOINING
            continue
        if _opens(word):
            predicate = False
            if before and not _determines(before):
                pieces.append([])
        if not predicate:
            pieces[-1].append(i)
    kept = [piece for piece in pieces if _names([words[i] for i in piece])]
    return _drop_repeats(text[tokens[piece[0]].start() : tokens[piece[-1]].end()] for piece in kept)


def _cuts(word: str, before: str, after: str) -> bool:
    """Whether a phrase ends before this word; `before` is its last word so far, if any."""
    if word in LINKS or " " in word or not word[0].isalnum():
        return True
    if _determines(before):
        return False
    verb = word in VERBS or (word.endswith("ing") and word not in NOUNS)
    return verb or (after in LINKS and re.fullmatch(r"\w\w+[^\We]ed", word) is not None)


def _between_adjectives(so_far: Sequence[str], after: Sequence[str]) -> bool:
    """Whether a comma stands as in "the soft, fluffy pillow"."""
    plain = [not _opens(word) and not _cuts(word, "", "") for word in after]
    return len(so_far) == 2 and _determines(so_far[0]) and plain == [True, True]


def _determines(word: str) -> bool:
    return word in DETERMINERS or word.isdecimal()


def _opens(word: str) -> bool:
    return _determines(word) or word in PRONOUNS


def _names(words: Sequence[str]) -> bool:
    """Whether these words name a thing."""
    return (
        any(not _opens(word) and word not in EMPTY for word in words) and words[0] not in PRONOUNS
    )


def _drop_repeats(phrases: Iterable[str]) -> list[str]:
    """Equal ones, in any case, once; white space as single blanks."""
    found: dict[str, str] = {}
    for phrase in phrases:
        plain = " ".join(phrase.split())
        found.setdefault(plain.casefold(), plain)
    return list(found.values())


def load_spacy() -> tuple[Callable[[str], list[str]], str]:
    """spaCy's noun chunks but for mere places, and which model's they are.

    Raises:
        UserError: spaCy or its model is not installed.
    """
    try:
        parse: Any = import_module("spacy").load(MODEL)
    except (ImportError, OSError) as error:
        raise UserError(
            f"--with spacy: spaCy or its model {MODEL} is not installed (pip install --group "
            f"phrases, in the checkout; python -m spacy download {MODEL}); or choose --with rule"
        ) from error

    def phrases(text: str) -> list[str]:
        return _drop_repeats(
            chunk.text for chunk in parse(text).noun_chunks if chunk.text not in PLACES
        )

    return phrases, f"spaCy {MODEL} {parse.meta['version']}"


class PlainPrompts(FilePrompts):
    """Prompts of a file whose columns no setting of this command names."""

    setting = None


def complete(
    path: Path, phrases: Callable[[str], list[str]], source: str
) -> list[dict[str, object]]:
    """The rows of a prompt file, each with phrases and where they came from.

    Raises:
        UserError: as `FilePrompts`.
    """
    prompts = PlainPrompts(str(path))
    prompts.load()
    return [
        {**said, "phrases_from": said.get("phrases_from") or "given"}
        if prompt.phrases
        else {**said, "phrases": phrases(prompt.text), "phrases_from": source}
        for _, said, prompt in prompts.rows()
    ]


def format_rows(rows: Sequence[Mapping[str, object]], suffix: str) -> str:
    """The rows as a prompt file of this ending.

    Raises:
        UserError: another ending, or a list that a cell of a table cannot hold.
    """
    if suffix in (".yaml", ".yml"):
        import yaml

        return yaml.safe_dump(list(rows), allow_unicode=True, sort_keys=False, width=1000)
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
    if suffix == ".jsonl":
        return "".join(f"{line}\n" for line in lines)
    if suffix == ".json":
        return "[\n" + ",\n".join(lines) + "\n]\n"
    if suffix not in (".csv", ".tsv"):
        raise UserError(
            "a prompt file ends in .yaml, .yml, .json, .jsonl, .csv or .tsv, not in "
            f"{suffix or 'nothing'}"
        )
    out = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(
        out, columns, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({key: _format_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _format_cell(value: object) -> object:
    if not isinstance(value, list):
        return value
    items = [str(item) for item in value]
    if any(";" in item for item in items):
        raise UserError(
            f"{value!r}: a cell of CSV cannot hold a text with a semicolon; choose another format"
        )
    return ";".join(items)


@command_line(errors=(Exception,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("evaluation.phrases", __doc__)
    parser.add_argument(
        "prompts", type=Path, metavar="FILE", help="YAML, JSON, JSONL, CSV, TSV or plain text"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--with", dest="by", choices=("spacy", "rule"), help="default: spacy if installed"
    )
    chosen = parser.read(arguments)
    rows = complete(chosen.prompts, *_choose_finder(chosen.by))
    text = format_rows(rows, (chosen.out or chosen.prompts).suffix.lower())
    if chosen.out is None:
        print(text, end="")
    else:
        write_bytes(chosen.out, text.encode())
    origins = Counter(row["phrases_from"] for row in rows)
    print(", ".join(f"{origin}: {count}" for origin, count in origins.items()), file=sys.stderr)
    return 0


def _choose_finder(by: str | None) -> tuple[Callable[[str], list[str]], str]:
    if by != "rule":
        try:
            return load_spacy()
        except UserError:
            if by == "spacy":
                raise
    return find_by_rule, RULE


if __name__ == "__main__":
    sys.exit(main())
