"""What the jobs of a sweep print, repeated where the sweep was typed: through files, which reach it
from wherever a job runs.

Slurm's jobs and Ray's have logs of their own instead of a terminal.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

RELAY_VARIABLE = "ASYNDM_SAID"
"""Environment variable that names the folder of these files to the jobs."""
POLL = 0.3
"""Seconds between two looks for something new."""
STREAMS = ("stdout", "stderr")
_readers: list[RelayReader] = []


class RelayedStream:
    """A stream of which every whole line goes to a file as well."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self.stream, self.file, self._part = stream, file, ""

    def write(self, text: str) -> int:
        whole, newline, self._part = (self._part + text).rpartition("\n")
        if newline:
            # opened for each write: a network disk shows other machines only what was closed
            with suppress(OSError), self.file.open("a") as file:
                file.write(whole + newline)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def relay_output() -> None:
    """Has this process, which does a job, print where the sweep was typed, too."""
    if (folder := os.environ.get(RELAY_VARIABLE)) is None:
        return
    for name in STREAMS:
        if not isinstance(getattr(sys, name), RelayedStream):
            file = Path(folder) / f"{socket.gethostname()}-{os.getpid()}.{name}"
            setattr(sys, name, RelayedStream(getattr(sys, name), file))


class RelayReader:
    """Prints what comes into the files of a folder, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._offsets = folder, dict[Path, int]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_printing, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Prints the rest, and removes the folder."""
        self._end.set()
        self._thread.join()
        self._print_new()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_printing(self) -> None:
        while not self._end.wait(POLL):
            self._print_new()

    def _print_new(self) -> None:
        for path in sorted(self.folder.glob("*.std*")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            if whole:
                print(whole.decode(), end="", file=getattr(sys, path.suffix[1:]), flush=True)


def start_relay(folder: Path) -> None:
    """Has what jobs print that are started from now on printed here, until `finish_relays` ends.

    Args:
        folder: in which a folder for their files is made; the jobs see it at the same path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RELAY_VARIABLE] = tempfile.mkdtemp(prefix="said-", dir=folder)
    _readers.append(RelayReader(Path(os.environ[RELAY_VARIABLE])))


@contextmanager
def finish_relays() -> Iterator[None]:
    """In the end, the rest of what the jobs printed is printed here."""
    try:
        yield
    finally:
        while _readers:
            _readers.pop().close()
            os.environ.pop(RELAY_VARIABLE, None)
