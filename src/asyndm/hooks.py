"""Removable hooks on a stock network, and watches over what it calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle


class Hooks(ABC):
    """Hooks that are there while the context lasts."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for handle in self._attach():
            self._handles.append(handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    @abstractmethod
    def _attach(self) -> Iterable[RemovableHandle]:
        """Registers them, one after another."""

    @abstractmethod
    def _forget(self) -> None:
        """Lets go of what was read."""


class Watch(TorchFunctionMode):
    """Sees the functions of torch that are called inside one layer, whose hooks begin and end it.

    Attributes:
        waiting: for the call that it is for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on = self.waiting = False

    def begin(self) -> None:
        """The layer runs."""
        self._on = self.waiting = True
        super().__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """It is done, or has failed."""
        if self._on:
            self._on = False
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]
