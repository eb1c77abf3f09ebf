"""What a process says of its part of a run, in a small file: so that others see what goes on, and
what broke."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from evaluation.runs.files import write_json
from evaluation.runs.folder import SHARDS, STATE_FILE
from experiments.engine.plan import Plan

BEAT = 5.0
"""Seconds between two heartbeats."""
LOG_LINES = 40
"""Last lines of standard error that a failure keeps."""


def find_state_file(plan: Plan) -> Path:
    """Where the state of this part of the run is told: of the whole run, or of a shard."""
    if plan.shard is None:
        return plan.folder / STATE_FILE
    number, count = plan.shard
    return plan.folder / SHARDS / f"{number}-of-{count}.json"


def find_alive_file(state: Path) -> Path:
    """The file whose lock says that the process behind a state lives; no clock is asked."""
    return state.with_name(f".{state.stem}.alive")


def find_others_alive(plan: Plan) -> list[Path]:
    """Such files of all other parts of the run."""
    own = find_alive_file(find_state_file(plan))
    found = [*plan.folder.glob(".*.alive"), *(plan.folder / SHARDS).glob(".*.alive")]
    return [file for file in found if file != own]


class Tail:
    """Standard error, of which the last lines are kept; bars that overwrite themselves are no
    lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lines, self._part = stream, deque[str](maxlen=LOG_LINES), ""

    def write(self, text: str) -> int:
        *lines, self._part = (self._part + text).split("\n")
        self.lines.extend(line.rpartition("\r")[2] for line in lines)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Heartbeat:
    """The state of one part of a run, told at once when it changes and by a heartbeat in between.

    Where two processes are at the same part, the first tells of it, and the other one once that has
    gone.
    """

    def __init__(self, plan: Plan) -> None:
        self.file = find_state_file(plan)
        self.content: dict[str, Any] = {
            "state": "running",
            "label": plan.label,
            "total": len(plan.items),
            "phase": "starting",
            "made": 0,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
        }
        self._begun = time.monotonic()
        self._alive = FileLock(find_alive_file(self.file), thread_local=False)
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def is_owner(self) -> bool:
        """Whether this process is the one that tells of the part."""
        return self._alive.is_locked

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return round(time.monotonic() - self._begun, 1)

    def begin(self) -> None:
        """Says that the part is running, if no other process does.

        Raises:
            OSError: the folder cannot be written to.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._take(0.5)
        self._write()
        self._thread.start()

    def tell(self, **what: Any) -> None:
        """Where the work is: written at once where the phase changes, else by the next
        heartbeat."""
        with self._writing:
            changed = what.get("phase", self.content["phase"]) != self.content["phase"]
            self.content |= what
        if changed:
            self._write()

    def end(
        self, state: str, error: BaseException | None = None, log: tuple[str, ...] = ()
    ) -> None:
        """Says how it ended; a disk that has no room even for that is not worth a second error."""
        self._stop.set()
        self._thread.join(timeout=BEAT)
        with self._writing:
            self.content |= {"state": state}
            if error is not None:
                told = "".join(traceback.format_exception(error))
                self.content |= {"error": str(error), "traceback": told, "log": list(log)}
        with suppress(OSError):
            self._take(0)
            self._write()
        self._alive.release()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):
                self._take(0)
                self._write()

    def _take(self, timeout: float) -> None:
        if not self.is_owner:
            with suppress(Timeout):
                self._alive.acquire(timeout=timeout)

    def _write(self) -> None:
        with self._writing:
            if self.is_owner:
                write_json(
                    self.file, self.content | {"seconds": self.seconds, "updated": time.time()}
                )


@contextmanager
def keep_heartbeat(plan: Plan) -> Iterator[Heartbeat]:
    """Says that the part is running, and in the end that it is done, or how it failed.

    Raises:
        OSError: the folder cannot be written to.
    """
    heartbeat, tail = Heartbeat(plan), Tail(sys.stderr)
    heartbeat.begin()
    try:
        with redirect_stderr(tail):
            yield heartbeat
    except BaseException as error:
        heartbeat.end(
            "failed" if isinstance(error, Exception) else "interrupted", error, tuple(tail.lines)
        )
        raise
    heartbeat.end("done")


def announce(plan: Plan) -> None:
    """Announces a part that a sweep will make, where nothing is told of it yet."""
    file = find_state_file(plan)
    if not file.exists():
        write_json(
            file,
            {
                "state": "pending",
                "label": plan.label,
                "total": plan.image_count,
                "updated": time.time(),
            },
        )


def mark_done(plan: Plan) -> None:
    """Says of a run made in parts that all of it is done."""
    done = {"state": "done", "label": plan.label, "total": len(plan.items), "updated": time.time()}
    write_json(plan.folder / STATE_FILE, done)
