"""Text of files, made fit to print."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""``text`` with its control characters spelled out, so that printing it cannot steer a terminal.

    C0 (all but newline and tab) and C1 controls become ``\x1b``-style escapes, as do the marks that
    reorder a line (bidirectional overrides, embeddings and isolates) or break it (U+2028, U+2029), and what
    neither UTF-8 nor XML can hold (lone surrogates, U+FFFE, U+FFFF).
    """
    return _UNPRINTABLE.sub(lambda match: _escape(match.group()), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
