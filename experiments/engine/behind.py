"""Work that is done in order behind its caller's back: writing, while the next is computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self


class Behind:
    """A thread that does what it is given, one after another.

    Leaving the context waits for what was given, also where an exception leaves it: what is made
    is kept. An error of the work is raised where the next is given, or on leaving. Any thread may
    give, and wait.

    Args:
        room: how many works may wait or be done at a time; the caller waits for a place.
    """

    def __init__(self, room: float = math.inf) -> None:
        self._room = room
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._given = deque[Future[object]]()
        self._lock = Lock()

    def give(self, work: Callable[[], object]) -> None:
        """Has this done, whatever became of what was given before.

        Raises:
            Exception: what an earlier work has raised.
        """
        errors: list[BaseException] = []
        while earliest := self._take(self._room):
            errors += filter(None, [earliest.exception()])
        self._given.append(self._pool.submit(work))
        if errors:
            raise errors[0]

    def wait(self) -> None:
        """Waits until all is done.

        Raises:
            Exception: what a work has raised.
        """
        while earliest := self._take(0):
            earliest.result()

    def _take(self, room: float) -> Future[object] | None:
        """The earliest work, if it is done or as many as there is room for were given."""
        with self._lock:
            is_due = self._given and (len(self._given) >= room or self._given[0].done())
            return self._given.popleft() if is_due else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()
