"""How people write words: what reads the same, and where a word begins and ends."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

SAME = str.maketrans(
    dict.fromkeys("‘’‚‛ʹʻʼʽ′`´", "'")
    | dict.fromkeys("“”„‟″", '"')
    | dict.fromkeys("‐‑‒–—―−﹘﹣－⁃", "-")
    | {"ı": "i"}
)
SPACELESS = re.compile(
    "(?:CJK|IDEOGRAPHIC|HIRAGANA|KATAKANA|KATAKANA-HIRAGANA|HENTAIGANA|BOPOMOFO|THAI|LAO|KHMER"
    "|MYANMAR|TAI|NEW TAI|TIBETAN|YI|JAVANESE|BALINESE|NUSHU|TANGUT) "
)
"""Scripts without spaces between words, as the names of their characters begin."""
ZERO_WIDTH_SPACE, JOINER, DOT_ABOVE = "\u200b", "\u200d", "\u0307"
STACKERS = frozenset("\u1039\u17d2\u1a60" + JOINER)
"""What binds the next letter to the one before."""
PARTICLES = re.compile(
    "(?:"
    + unicodedata.normalize(
        "NFD",
        "에게서|으로서|으로써|이라도|입니다|에서|에게|한테|께서|이랑|하고|으로|로서|로써|까지|부터|처럼|같이|보다|마다|조차|마저"
        "|밖에|라도|이나|이고|이다|대로|만큼|이|가|은|는|을|를|의|에|께|와|과|랑|도|만|로|나|들|인|뿐|아|야",
    )
    + "){1,3}(?![\u1100-\u11ff])"
)
"""What Korean writes without a space behind a noun."""


class Span(NamedTuple):
    """Where words of a text start and end, in its characters."""

    start: int
    end: int


@dataclass(frozen=True)
class NormalText:
    """A text in the form in which what reads the same is the same.

    Attributes:
        text: decomposed, without case, widths, ligatures and what is not seen, with plain quotes
            and dashes.
        origins: for each character of it, which of the original it comes from.
        cuts: for each character of it and for its end, whether a word may begin or end before it.
        original: the text.
    """

    text: str
    origins: tuple[int, ...]
    cuts: tuple[bool, ...]
    original: str

    def find(self, words: str) -> list[Span]:
        """Where these words are, in the characters of the reading: whole words, each behind the end
        of the last."""
        found: list[Span] = []
        pattern, at = _make_pattern(words), 0
        while pattern and (match := pattern.search(self.text, at)):
            start, end = match.span()
            whole = self.cuts[start] and (
                self.cuts[end] or PARTICLES.match(self.text, end) is not None
            )
            if whole:
                found.append(Span(start, end))
            at = end if whole else start + 1
        return found

    def original_span(self, start: int, end: int) -> Span:
        """The characters of the original that this part of the reading comes from, with the marks
        on the last."""
        places = self.origins[start:end]
        last = max(places) + 1
        while last < len(self.original) and unicodedata.category(self.original[last])[0] == "M":
            last += 1
        return Span(min(places), last)


@lru_cache(maxsize=4096)
def normalise(text: str) -> NormalText:
    """The reading of a text."""
    plain = text.translate(SAME)
    if plain.isascii():
        reading, origins = plain.lower(), tuple(range(len(plain)))
    else:
        reading, origins = _decompose(plain)
    return NormalText(reading, origins, _find_cuts(reading, origins), text)


def _decompose(text: str) -> tuple[str, tuple[int, ...]]:
    """The parts of all characters in small letters, and which character each comes from."""
    pieces = [(part, i) for i, char in enumerate(text) for part in _decompose_visible(char)]
    pieces = [(part, i) for char, i in _order_marks(pieces) for part in _to_nfkd(char.casefold())]
    # "İ" in small letters is an "i" with a dot
    pieces = [
        p for i, p in enumerate(pieces) if p[0] != DOT_ABOVE or i == 0 or pieces[i - 1][0] != "i"
    ]
    return "".join(char for char, _ in pieces), tuple(i for _, i in pieces)


def find_occurrences(text: str, words: str) -> list[Span]:
    """Where a text has these words: whole words, however they are written."""
    reading = normalise(text)
    return [reading.original_span(*found) for found in reading.find(words)]


def _decompose_visible(char: str) -> str:
    """A character's parts; nothing for one that is not seen (soft hyphen, marks of direction,
    variants of a sign)."""
    variant = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    hidden = unicodedata.category(char) == "Cf" and char not in (ZERO_WIDTH_SPACE, JOINER)
    return "" if variant or hidden else _to_nfkd(char)


def _to_nfkd(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


def _order_marks(pieces: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The marks on each letter in the order that Unicode gives them."""
    ordered: list[tuple[str, int]] = []
    base = 0
    for char, i in pieces:
        if not unicodedata.combining(char):
            base = len(ordered) + 1
        ordered.append((char, i))
        ordered[base:] = sorted(ordered[base:], key=lambda piece: unicodedata.combining(piece[0]))
    return ordered


@lru_cache(maxsize=4096)
def _classify_char(char: str) -> str:
    """What a character is for the bounds of words: "mark", "spaceless", "word" or ""."""
    if unicodedata.category(char)[0] == "M" or "\u1160" <= char <= "\u11ff" or char == JOINER:
        return "mark"
    if not (char.isalnum() or char == "_"):
        return ""
    return "spaceless" if SPACELESS.match(unicodedata.name(char, "")) else "word"


def _find_cuts(text: str, origins: tuple[int, ...]) -> tuple[bool, ...]:
    """Before which characters a word may begin or end: never within one of the original or before
    its marks."""
    cuts, left = [True], ""
    for i, char in enumerate(text):
        kind = _classify_char(char)
        if i > 0:
            apart = not left or not kind or "spaceless" in (left, kind)
            bound = kind == "mark" or text[i - 1] in STACKERS or origins[i - 1] == origins[i]
            cuts.append(apart and not bound)
        left = left or "word" if kind == "mark" else kind
    return (*cuts, True) if text else (True,)


@lru_cache(maxsize=2**16)
def _make_pattern(words: str) -> re.Pattern[str] | None:
    """These words in a reading, with any space between them; none is needed in a script without
    spaces."""
    text = " ".join(normalise(words).text.replace(ZERO_WIDTH_SPACE, " ").split())
    if not text:
        return None
    pattern = re.escape(text[0])
    for i in range(1, len(text)):
        before, char = text[i - 1], text[i]
        if char == " ":
            free = _is_spaceless(before) and _is_spaceless(text[i + 1])
            pattern += rf"[\s{ZERO_WIDTH_SPACE}]" + ("*" if free else "+")
        else:
            pattern += (f"{ZERO_WIDTH_SPACE}?" if _is_spaceless(char) else "") + re.escape(char)
    return re.compile(pattern)


def _is_spaceless(char: str) -> bool:
    """Whether this is of a script without spaces; most of its marks name it as well."""
    return SPACELESS.match(unicodedata.name(char, "")) is not None
