"""Removable hooks on a stock network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

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
