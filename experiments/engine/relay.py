"""What the jobs of a sweep say, said where it was typed: through files, which reach it from
wherever a job runs.

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

SAID = "ASYNDM_SAID"
"""Environment variable that names the folder of these files to the jobs."""
POLL = 0.3
"""Seconds between two looks for something new."""
STREAMS = ("stdout", "stderr")
_following: list[Follower] = []


class Teller:
    """A stream of which every whole line goes to a file as well."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self.stream, self.file, self._part = stream, file, ""

    def write(self, text: str) -> int:
        whole, newline, self._part = (self._part + text).rpartition("\n")
        if newline:
            with (
                suppress(OSError),
                self.file.open("a") as file,
            ):  # closed each time: so other machines see it
                file.write(whole + newline)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def say_there() -> None:
    """Has this process, which does a job, say what it says where the sweep was typed, too."""
    if (folder := os.environ.get(SAID)) is None:
        return
    for name in STREAMS:
        if not isinstance(getattr(sys, name), Teller):
            file = Path(folder) / f"{socket.gethostname()}-{os.getpid()}.{name}"
            setattr(sys, name, Teller(getattr(sys, name), file))


class Follower:
    """Repeats what is said in the files of a folder, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._read = folder, dict[Path, int]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_repeating, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Repeats the rest, and removes the folder."""
        self._end.set()
        self._thread.join()
        self._repeat()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_repeating(self) -> None:
        while not self._end.wait(POLL):
            self._repeat()

    def _repeat(self) -> None:
        for path in sorted(self.folder.glob("*.std*")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            if whole:
                print(whole.decode(), end="", file=getattr(sys, path.suffix[1:]), flush=True)


def follow(folder: Path) -> None:
    """Has the jobs that are started from now on heard here, until `followed` ends.

    Args:
        folder: in which a folder for their files is made; the jobs see it at the same path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[SAID] = tempfile.mkdtemp(prefix="said-", dir=folder)
    _following.append(Follower(Path(os.environ[SAID])))


@contextmanager
def followed() -> Iterator[None]:
    """In the end, the rest of what the jobs said is repeated."""
    try:
        yield
    finally:
        while _following:
            _following.pop().end()
            os.environ.pop(SAID, None)
