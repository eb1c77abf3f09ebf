"""A run that is told to stop says so in its state, keeps what is whole, and tells by its exit
status."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt, no handler of ordinary errors holds it up."""


class JobFailed(Exception):
    """A job failed.

    Attributes:
        is_reported: whether the user has read why, and not only the log of a job that runs
            elsewhere.
    """

    is_reported = True


class FailedReturn(JobReturn):
    """What came of a job that failed; to ask for it raises its failure, without the line that Hydra
    prints before."""

    @property
    def return_value(self) -> Any:
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


EXIT_STATUS = {KeyboardInterrupt: 130, Terminated: 143}
"""128 and the number of the signal, as shells have it."""
_stop_asked = threading.Event()


def is_stopping() -> bool:
    """Whether this process was told to stop: no further job begins then."""
    return _stop_asked.is_set()


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raises `Terminated` in the main thread at SIGTERM, once; where a launcher listens itself, it
    is left to it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        _stop_asked.set()
        # a second SIGTERM must not interrupt the writing of the state that says "interrupted"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    _stop_asked.clear()
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
