"""Processes that tests start, watch and end."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.lab import ROOT


@contextmanager
def start_python(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def find_children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [
        int(c)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for c in task.read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(reached: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something to be so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it never came that far"
        time.sleep(0.1)


def read_line(stream: IO[bytes] | None) -> str:
    """A line that a process says, which it does soon or never."""
    assert stream is not None
    assert select.select([stream], [], [], 30)[0], "it says nothing"
    return stream.readline().decode()
