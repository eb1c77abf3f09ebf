"""One run to a GPU: its slot is a file lock, which holds across processes and launchers and ends
with its holder."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

ANY_GPU = ("auto", "cuda")
"""Devices that leave the choice of the GPU to us."""
POLL = 0.5
"""Seconds between two looks for a free slot."""


@contextmanager
def lease_gpu(device: str, jobs_per_gpu: int) -> Iterator[None]:
    """Holds a slot of one of the visible GPUs and makes that GPU torch's current one; waits while
    all are taken.

    A GPU named by its number ("cuda:1") and the CPU are left alone. A GPU is known by its UUID, so
    it is the same one whatever CUDA_VISIBLE_DEVICES says; only this user's processes on this
    machine are seen.

    Args:
        device: as in ``device=``.
        jobs_per_gpu: slots of each GPU; processes that are to count each other are given the same
            number.
    """
    if device not in ANY_GPU:
        yield
        return
    import torch

    if not torch.cuda.is_available():
        yield
        return
    uuids = [
        str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())
    ]
    with hold_slot(uuids, jobs_per_gpu, find_lock_folder(), torch.cuda.current_device()) as number:
        torch.cuda.set_device(number)
        yield


def name_leased_device(device: str) -> str:
    """The GPU that `lease_gpu` chose, by its number: a model kept for the next run may lie on
    another."""
    if device not in ANY_GPU:
        return device
    import torch

    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else device


def find_lock_folder() -> Path:
    """Where this user's locks of GPUs lie, on a disk of this machine."""
    return Path(tempfile.gettempdir()) / f"asyndm-gpus-{os.getuid()}"


@contextmanager
def hold_slot(gpus: Sequence[str], each: int, folder: Path, first: int = 0) -> Iterator[int]:
    """Holds one of the slots of some GPUs, of one that is shared with as few as can be; waits while
    all are taken.

    Args:
        gpus: a name for each.
        each: slots of a GPU.
        folder: of the locks.
        first: the GPU to try first, where a model may lie already.

    Yields:
        The number of the GPU.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    order = [*range(first, len(gpus)), *range(first)]
    # share by share, not GPU by GPU: no GPU has a second job while another one has none
    slots = [
        (gpu, FileLock(folder / f"{gpus[gpu]}.{share}")) for share in range(each) for gpu in order
    ]
    is_told = False
    while (held := _take_free_slot(slots)) is None:
        if not is_told:
            print(_describe_wait(len(gpus), each), file=sys.stderr, flush=True)
            is_told = True
        time.sleep(POLL)
    gpu, lock = held
    try:
        yield gpu
    finally:
        lock.release()


def _take_free_slot(slots: Sequence[tuple[int, FileLock]]) -> tuple[int, FileLock] | None:
    for gpu, lock in slots:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return gpu, lock
    return None


def _describe_wait(gpus: int, each: int) -> str:
    subject, them = ("the GPU is", "it") if gpus == 1 else (f"all {gpus} GPUs are", "them")
    return f"{subject} taken; waiting (jobs_per_gpu={each + 1} shares {them})"
