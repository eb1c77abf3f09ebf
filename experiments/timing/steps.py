"""Steps of a stock pipeline, synchronous and asynchronous, timed in turn on the same weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.compilation import check_compiled
from asyndm.curves import Quadratic
from asyndm.masks import DynamicMask, GlobalMask, Mask, NoMask
from asyndm.method import Method
from asyndm.networks import find_denoiser, find_family
from asyndm.scene import Scene
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from experiments.timing.cases import Case

LEVELS = 64
"""Timesteps in the picture."""
STOCK, OURS = "stock", "AsynDM"


class GradedMask(DynamicMask):
    """Reads attention as AsynDM does, and then takes a picture with 64 greys: as many timesteps as
    a mask that settles slowly leaves behind."""

    label = OURS

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        height, width = scene.size
        place = torch.arange(height * width, device=scene.concavity.device).view(height, width)
        return scene.weights(1.0) * (place * LEVELS // (height * width) / LEVELS)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        super().follow(weights, maps, scene)
        return weights


KINDS: dict[str, Mask | None] = {
    STOCK: None,
    "DM": NoMask(),
    "DM_concave": GlobalMask(),
    OURS: GradedMask(),
}
"""What is timed: the pipeline as it is, and with a mask of ours."""


def build_session(case: Case, mask: Mask | None = None) -> Session:
    """The case's pipeline with two subjects an image; by default as AsynDM.

    Raises:
        UserError: its network is compiled in a way that is refused.
    """
    pipe, mask = case.pipe, mask or GradedMask()
    concavity = torch.full((case.batch, 2), 0.5, dtype=torch.float64)
    family = find_family(pipe)
    check_compiled(find_denoiser(pipe), family)
    tokens = [[[2], [5, 6]]] * case.batch
    reads = mask.follows_attention
    reader = family.attention(find_denoiser(pipe), tokens, Reading()) if reads else None
    method = Method(Quadratic(), mask, concavity)
    scheduler = AsynchronousScheduler(pipe.scheduler, method, images=range(case.batch))
    return Session(pipe, family, scheduler, reader)


def open_kind(case: Case, kind: str) -> AbstractContextManager[None]:
    """Inside, the case's pipeline samples in one of the `KINDS`."""
    mask = KINDS[kind]
    return nullcontext() if mask is None else build_session(case, mask).open()


@torch.no_grad()
def make_latents(case: Case, steps: int, **more: Any) -> Tensor:
    """One call of the pipeline, from the same noise each time."""
    latents: Tensor = case.pipe(
        **case.repeat_call(),
        height=8 * case.side,
        width=8 * case.side,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **more,
    ).images
    return latents


@dataclass
class Timing:
    """Seconds of each step, and the largest memory of any call in GiB."""

    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """Of two timings the ratio of medians, and the quartiles of that of their pairs."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Timing, stock: Timing) -> Ratio:
        """Ours against stock."""
        pairs = [a / b for a, b in zip(ours.seconds, stock.seconds, strict=True)]
        low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
        return cls(ours.median / stock.median, low, high)


def time_call(case: Case, steps: int, device: torch.device, timing: Timing) -> None:
    """One call of the pipeline; the first step, which warms up, is not counted."""
    marks: list[float] = []
    clock = _find_clock(device)

    def mark(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(clock())
        return values

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    make_latents(case, steps, callback_on_step_end=mark)
    timing.seconds += [after - before for before, after in zip(marks, marks[1:], strict=False)]
    if device.type == "cuda":
        timing.memory = max(timing.memory, torch.cuda.max_memory_allocated(device) / 2**30)


def _find_clock(device: torch.device) -> Callable[[], float]:
    """The processor's own where one thread does all, which other work on the machine changes least;
    else that of the wall."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def compare(
    case: Case,
    device: torch.device,
    calls: int,
    steps: int,
    kinds: Sequence[str] = (STOCK, OURS),
) -> dict[str, Timing]:
    """Calls of each kind in turn; the first of each is not counted."""
    timings = {kind: Timing() for kind in kinds}
    for call in range(calls + 1):
        for kind, timing in timings.items():
            with open_kind(case, kind):
                time_call(case, steps, device, timing if call else Timing())
    return timings
