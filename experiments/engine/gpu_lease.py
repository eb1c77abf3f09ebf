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
def leased(device: str, jobs_per_gpu: int) -> Iterator[None]:
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
    keys = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    with slot(keys, jobs_per_gpu, lease_folder(), torch.cuda.current_device()) as number:
        torch.cuda.set_device(number)
        yield


def leased_device(device: str) -> str:
    """The GPU that `leased` chose, by its number: a model kept for the next run may lie on
    another."""
    if device not in ANY_GPU:
        return device
    import torch

    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else device


def lease_folder() -> Path:
    """Where this user's locks of GPUs lie, on a disk of this machine."""
    return Path(tempfile.gettempdir()) / f"asyndm-gpus-{os.getuid()}"


@contextmanager
def slot(keys: Sequence[str], each: int, folder: Path, first: int = 0) -> Iterator[int]:
    """Holds one of the slots of some GPUs, of one that is shared with as few as can be; waits while
    all are taken.

    Args:
        keys: a name for each GPU.
        each: slots of a GPU.
        folder: of the locks.
        first: the GPU to try first, where a model may lie already.

    Yields:
        The number of the GPU.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    order = [*range(first, len(keys)), *range(first)]
    slots = [
        (gpu, FileLock(folder / f"{keys[gpu]}.{share}")) for share in range(each) for gpu in order
    ]
    said = False
    while (held := _take(slots)) is None:
        if not said:
            print(_taken(len(keys), each), file=sys.stderr, flush=True)
            said = True
        time.sleep(POLL)
    gpu, lock = held
    try:
        yield gpu
    finally:
        lock.release()


def _take(slots: Sequence[tuple[int, FileLock]]) -> tuple[int, FileLock] | None:
    for gpu, lock in slots:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return gpu, lock
    return None


def _taken(gpus: int, each: int) -> str:
    which = "the GPU is" if gpus == 1 else f"all {gpus} GPUs are"
    return (
        f"{which} taken; waiting (jobs_per_gpu={each + 1} shares {'it' if gpus == 1 else 'them'})"
    )
