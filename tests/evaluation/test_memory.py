"""Batches shrink to the memory there is, and no further."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from asyndm.errors import UserError
from evaluation.memory import Room, is_out_of_memory, process_in_parts


def make_at_most(most: int, tried: list[int]) -> Callable[[Sequence[int]], list[int]]:
    """Makes as many at once as a memory has room for."""

    def make(part: Sequence[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(part)

    return make


def test_a_batch_is_halved_until_it_fits_and_stays_so() -> None:
    room, tried = Room(8), list[int]()
    made = list(process_in_parts(range(8), make_at_most(3, tried), room, "no room"))
    assert made == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert tried == [8, 4, 2, 2, 2, 2] and room.size == 2
    assert list(process_in_parts(range(3), make_at_most(3, tried), room, "")) == [[0, 1], [2]]


def test_what_is_only_kept_at_hand_goes_before_a_batch_is_halved() -> None:
    kept, tried = [2, 1], list[int]()  # things, of 3 rooms each

    def make(part: Sequence[int]) -> list[int]:
        return make_at_most(8 - 3 * len(kept), tried)(part)

    room = Room(8, lambda: bool(kept and kept.pop()))
    assert list(process_in_parts(range(8), make, room, "no room")) == [list(range(8))]
    assert tried == [8, 8, 8] and room.size == 8
    assert list(process_in_parts(range(8), make_at_most(7, tried), room, "")) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_what_does_not_fit_alone_says_the_remedy() -> None:
    with pytest.raises(UserError, match="^a larger one$"):
        list(process_in_parts([1, 2], make_at_most(0, []), Room(2), "a larger one"))


def test_other_errors_are_not_those_of_the_memory() -> None:
    def fail(part: Sequence[int]) -> None:
        raise RuntimeError("no idea")

    room = Room(4)
    with pytest.raises(RuntimeError, match="no idea"):
        list(process_in_parts([1, 2], fail, room, ""))
    assert room.size == 4 and not is_out_of_memory(RuntimeError("out of memory"))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1.2 GB)",
    ],
)
def test_what_libraries_below_torch_say_of_memory_is_known(said: str) -> None:
    refused = [RuntimeError(said)]

    def make(part: Sequence[int]) -> list[int]:
        if refused:
            raise refused.pop()
        return list(part)

    room = Room(4)
    assert list(process_in_parts(range(4), make, room, "")) == [[0, 1], [2, 3]]
    assert room.size == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        ValueError("CUDA out of memory"),
    ],
)
def test_other_errors_of_a_gpu_are_not_those_of_the_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
