"""A command that nobody reads on (``| head``) ends quietly, as those of the system do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

CLOSED = 141
"""Exit status: 128 and the number of SIGPIPE, as shells have it."""


class _Watched:
    """A stream that ends the program, by SystemExit, once its reader is gone: no handler of errors holds that up."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._ended():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._ended():
            self._stream.flush()

    @contextmanager
    def _ended(self) -> Iterator[None]:
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
    """Raises SystemExit with status 141 in here, where standard output or error is a pipe that nobody reads any more."""
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
