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
    """A job failed and has said so: to the user, or only to the log of a job that runs
    elsewhere."""

    told = True


class FailedJob(JobReturn):
    """What came of a job that failed; to ask for it raises its failure, without the line that Hydra
    prints before."""

    @property
    def return_value(self) -> Any:
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


STATUS = {KeyboardInterrupt: 130, Terminated: 143}
"""Exit statuses, 128 and the number of the signal as shells have it."""
_stopping = threading.Event()


def stopping() -> bool:
    """Whether this process was told to stop: no further job begins then."""
    return _stopping.is_set()


@contextmanager
def heard() -> Iterator[None]:
    """Raises `Terminated` in the main thread at SIGTERM, once; where a launcher listens itself, it
    is left to it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        _stopping.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    _stopping.clear()
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
