"""How often a step waits for the GPU: counted on one, or on a feigned one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from experiments.timing.cases import Case
from experiments.timing.feigned import FeignedGPU
from experiments.timing.steps import make_latents, open_kind

SAID = "called a synchronizing CUDA operation"
STEPS = 2


@dataclass(frozen=True)
class Waits:
    """Of one step.

    Attributes:
        count: how often it waits.
        places: where.
        mixed: functions given tensors of host and GPU, of the whole call.
    """

    count: float
    places: str = ""
    mixed: list[str] = field(default_factory=list)


def count_waits(case: Case, kind: str, device: torch.device) -> Waits:
    """What a step of this kind waits, beyond what a call waits once: the difference of two calls,
    one of them with twice the steps."""
    if device.type == "cuda":  # what is done once in a process is done here
        _count_call(case, kind, device, 1)
    few, many = (_count_call(case, kind, device, steps) for steps in (STEPS, 2 * STEPS))
    more = many[0] - few[0]
    places = ", ".join(f"{place} {count / STEPS:g}" for place, count in more.most_common(4))
    return Waits(more.total() / STEPS, places, many[1])


def _count_call(
    case: Case, kind: str, device: torch.device, steps: int
) -> tuple[Counter[str], list[str]]:
    def call() -> None:
        with open_kind(case, kind):
            make_latents(case, steps)

    if device.type == "cuda":
        return _count_warnings(call), []
    pipe = case.pipe
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    tensors = [each for part in parts for each in (*part.parameters(), *part.buffers())]
    gpu = FeignedGPU([*tensors, *case.call.values()])
    with gpu.enter():
        call()
    return gpu.waits, gpu.mixed


def _count_warnings(call: Callable[[], None]) -> Counter[str]:
    """By the line that waited, as torch tells of it."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    lines = [warning for warning in caught if SAID in str(warning.message)]
    return Counter(f"{_shorten(line.filename)}:{line.lineno}" for line in lines)


def _shorten(path: str) -> str:
    return "/".join(path.split("/")[-2:])
