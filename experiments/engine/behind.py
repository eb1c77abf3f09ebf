"""Work that is done in order behind its caller's back: writing, while the next is computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Behind:
    """A thread that does what it is given, one after another.

    Leaving the context waits for what was given, also where an exception leaves it: what is made
    is kept. An error of the work is raised where the next is given, or on leaving.

    Args:
        room: how many works may wait or be done at a time; the caller waits for a place.
    """

    def __init__(self, room: float = math.inf) -> None:
        self._room = room
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._given = deque[Future[object]]()

    def give(self, work: Callable[[], object]) -> None:
        """Has this done, whatever became of what was given before.

        Raises:
            Exception: what an earlier work has raised.
        """
        errors: list[BaseException] = []
        while len(self._given) >= self._room or (self._given and self._given[0].done()):
            errors += filter(None, [self._given.popleft().exception()])
        self._given.append(self._pool.submit(work))
        if errors:
            raise errors[0]

    def wait(self) -> None:
        """Waits until all is done.

        Raises:
            Exception: what a work has raised.
        """
        while self._given:
            self._given.popleft().result()

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
