"""Work done behind its caller's back: in order, no more than there is room for, and none lost."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from experiments.engine.behind import Behind


def test_work_is_done_in_order_and_all_of_it_on_leaving() -> None:
    done: list[int] = []
    with Behind() as thread:
        for number in range(20):
            thread.give(partial(done.append, number))
    assert done == list(range(20))


def test_the_caller_waits_where_there_is_no_more_room() -> None:
    gate, begun = threading.Event(), threading.Event()
    given: list[int] = []

    def give_three(thread: Behind) -> None:
        for number in range(3):
            thread.give(gate.wait)
            given.append(number)
        begun.set()

    with Behind(room=2) as thread:
        giver = threading.Thread(target=give_three, args=(thread,))
        giver.start()
        assert not begun.wait(0.3) and given == [0, 1]
        gate.set()
        assert begun.wait(10)
        giver.join()


def fail() -> None:
    raise OSError("disk full")


def test_an_error_is_raised_in_the_caller_and_what_was_given_is_done_all_the_same() -> None:
    done: list[int] = []
    with pytest.raises(OSError, match="disk full"), Behind() as thread:
        thread.give(fail)
        thread.give(partial(done.append, 1))
    assert done == [1]
    with pytest.raises(OSError, match="disk full"), Behind(room=1) as thread:
        thread.give(fail)
        thread.give(partial(done.append, 2))
    assert done == [1, 2]


def test_an_exception_that_leaves_the_context_loses_no_work_and_is_the_one_that_is_told() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Behind() as thread:
        thread.give(partial(done.append, 1))
        thread.give(fail)
        raise KeyboardInterrupt
    assert done == [1]
