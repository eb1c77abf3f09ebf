"""What a command prints: text of files made fit for a terminal, and a quiet end where nobody reads
on (``| head``)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

CLOSED = 141
"""Exit status: 128 and the number of SIGPIPE, as shells have it."""


class _Watched:
    """A stream that ends the program, by SystemExit, once its reader is gone: no handler of errors
    holds that up."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._end_quietly():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._end_quietly():
            self._stream.flush()

    @contextmanager
    def _end_quietly(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            with suppress(OSError):  # what is left to be written goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            raise SystemExit(CLOSED) from None


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Raises SystemExit with status 141 in here, where standard output or error is a pipe that
    nobody reads any more."""
    before = sys.stdout, sys.stderr
    streams: list[Any] = [_watch(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        try:
            for stream in filter(None, streams):
                stream.flush()
        finally:
            sys.stdout, sys.stderr = before


def _watch(stream: TextIO | None) -> Any:
    return stream if stream is None or isinstance(stream, _Watched) else _Watched(stream)


_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
    r"\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""``text`` with its control characters spelled out, so that printing it cannot steer a
    terminal.

    C0 (all but newline and tab) and C1 controls become ``\x1b``-style escapes, as do the marks that
    reorder a line (bidirectional overrides, embeddings and isolates) or break it (U+2028, U+2029),
    and what neither UTF-8 nor XML can hold (lone surrogates, U+FFFE, U+FFFF).
    """
    return _UNPRINTABLE.sub(lambda match: _escape(match.group()), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
