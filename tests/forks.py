"""A process that begins as a copy of this one: it is spared the seconds that its imports take."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import TimeoutExpired
from typing import NoReturn

from tqdm import tqdm


class Fork:
    """Is asked and stopped as a ``subprocess.Popen``.

    Args:
        act: what it does; the value is its exit status.
        folder: where it works.
    """

    def __init__(self, act: Callable[[], int], folder: Path) -> None:
        self.returncode: int | None = None
        self._said = [io.FileIO(os.memfd_create(name), "r+") for name in ("out", "error")]
        self.pid = os.fork()
        if self.pid == 0:
            _live(act, folder, *self._said)

    def poll(self) -> int | None:
        """Its exit status, or less than 0 for the signal that killed it; None while it lives."""
        if self.returncode is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(ended) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Waits for its end, and kills it where that takes longer."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutExpired("fork", timeout)
            time.sleep(0.01)
        return status

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """What it said until its end, on standard output and error."""
        self.wait(timeout)
        for file in self._said:
            file.seek(0)
        out, error = (file.readall().decode() for file in self._said)
        return out, error

    def send_signal(self, sent: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, sent)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _open_stream(descriptor: int) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True)


def _live(act: Callable[[], int], folder: Path, out: io.FileIO, error: io.FileIO) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        sys.stdout, sys.stderr = _open_stream(1), _open_stream(2)
        logging.getLogger().handlers.clear()  # pytest's
        tqdm.set_lock(threading.RLock())  # its own is the parent's too, and stays with a killed one
        os.chdir(folder)
        status = act()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
