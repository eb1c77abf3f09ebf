"""Batches for which a GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asyndm.errors import UserError

Thing = TypeVar("Thing")
Made = TypeVar("Made")


@dataclass
class Room:
    """How many things at once the memory has room for, as far as is known.

    Attributes:
        size: the number.
        free: lets go of what is only kept at hand; says whether there was anything.
    """

    size: int
    free: Callable[[], bool] = lambda: False


def process_in_parts(
    batch: Sequence[Thing], make: Callable[[Sequence[Thing]], Made], room: Room, remedy: str
) -> Iterator[Made]:
    """What `make` makes of a batch. Where the memory does not suffice what is only kept at hand
    goes first; then it is made in halves, and no larger from then on.

    Raises:
        UserError: it does not suffice for a single one; says `remedy`.
    """
    start = 0
    while start < len(batch):
        part = batch[start : start + room.size]
        try:
            made = make(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if room.free():
                continue
            if len(part) == 1:
                raise UserError(remedy) from error
            room.size = (len(part) + 1) // 2  # not tried larger again: each failure costs a batch
            continue
        yield made
        start += len(part)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory was the matter; frees what can be."""
    import torch

    if not isinstance(error, torch.OutOfMemoryError):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
