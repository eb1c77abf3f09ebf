"""SIGTERM is heard once, in the main thread, and no further job begins."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from hydra.core.utils import JobStatus

from experiments.engine.signals import (
    EXIT_STATUS,
    FailedReturn,
    JobFailed,
    Terminated,
    is_stopping,
    raise_on_sigterm,
)


def test_sigterm_is_raised_once_and_then_as_before() -> None:
    with pytest.raises(Terminated), raise_on_sigterm():
        assert not is_stopping()
        os.kill(os.getpid(), signal.SIGTERM)
    assert is_stopping() and EXIT_STATUS[Terminated] == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with raise_on_sigterm():
        assert not is_stopping()


def test_another_listener_and_another_thread_are_left_alone() -> None:
    heard: list[object] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
    try:
        with raise_on_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    def listen() -> None:
        with raise_on_sigterm():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == ["theirs", signal.SIG_DFL]


def test_to_ask_for_the_value_of_a_failed_job_raises_its_failure() -> None:
    result = FailedReturn()
    result.return_value, result.status = JobFailed("no idea"), JobStatus.FAILED
    with pytest.raises(JobFailed, match="no idea"):
        _ = result.return_value
