"""What breaks in the process of a run, for tests of its faults."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.experiments.metrics import Slow


def on_network(act: Callable[[int, Any], Any]) -> None:
    """Calls `act` with the number of each evaluation of a denoising network and its output, which
    it may replace."""
    count = 0

    def hook(module: torch.nn.Module, given: Any, output: Any) -> Any:
        nonlocal count
        if type(module).__name__ != "UNet2DConditionModel":
            return None
        count += 1
        return act(count, output)

    torch.nn.modules.module.register_module_forward_hook(hook)


def linger(evaluations: int) -> None:
    """From then on the network and the metric take so long that there is time for what is to come,
    however busy the machine."""
    Slow.pause = 1.0
    on_network(lambda count, output: time.sleep(0.25) if count > evaluations else None)


def raise_after(evaluations: int) -> None:
    """The network raises at that evaluation, after a warning."""

    def break_network(count: int, output: Any) -> None:
        if count == evaluations:
            print("something odd", file=sys.stderr)
            raise RuntimeError("the network broke")

    on_network(break_network)


def overflow(image: int, steps: int) -> None:
    """One image's noise prediction is no number, at the third of its steps; images are made one by
    one."""

    def spoil(count: int, output: Any) -> Any:
        if count == image * steps + 3:
            return (output[0] * float("nan"), *output[1:])
        return None

    on_network(spoil)


def limit_memory(most: int) -> None:
    """More than so many images at once do not fit."""
    import asyndm.sampler

    sampler: Any = asyndm.sampler  # whose function is replaced

    sample = sampler.sample

    def hungry(pipe: Any, prompt: list[str], *arguments: Any, **settings: Any) -> Any:
        if len(prompt) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(pipe, prompt, *arguments, **settings)

    sampler.sample = hungry


def jump(seconds: float, evaluations: int) -> None:
    """The wall clock jumps at that evaluation."""
    clock, begun = time.time, [False]
    time.time = lambda: clock() + seconds * begun[0]

    def move(count: int, output: Any) -> None:
        begun[0] = begun[0] or count >= evaluations

    on_network(move)


def say_there_is_room() -> None:
    """The check before a run is told that the disk has room."""
    logging.getLogger().setLevel(logging.WARNING)
    usage = type(shutil.disk_usage("/"))(2**40, 0, 2**40)
    shutil.disk_usage = lambda path: usage


def obey_permissions() -> None:
    """Even root's process may not write where the owner may not: it gives up CAP_DAC_OVERRIDE
    (prctl and capset)."""
    import ctypes
    import os

    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for word in (0, 1):
        data[word] &= ~0b110
    assert libc.capset(header, data) == 0
