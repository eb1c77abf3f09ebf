"""Batches for which a GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asyndm.errors import UserError

Thing = TypeVar("Thing")
Made = TypeVar("Made")
SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""Of what torch raises where memory that its own allocator does not keep is not to be had."""


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU was the matter; frees what can be.

    Torch's allocator has a class of its own for it. The libraries below (cuBLAS, cuDNN, the driver
    itself) ask for memory as well, and theirs, like Apple's, is a RuntimeError that says so.
    """
    import torch

    told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    if not isinstance(error, torch.OutOfMemoryError) and not told:
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
