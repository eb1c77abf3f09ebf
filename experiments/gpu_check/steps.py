"""What a step costs: stock, DM and AsynDM in turn, on networks of real size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.memory import is_out_of_memory
from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import NOT_RUN, Row
from experiments.timing.cases import NETWORKS, Case
from experiments.timing.steps import OURS, STOCK, Ratio, Timing, compare, make_latents

CHECK = "steps"
KINDS = (STOCK, "DM", OURS)
STEPS = 4
"""Of a call, the first of which is not counted."""
PICTURE = 50
"""Steps of a picture."""
SPELL = 12.0
"""Seconds that a batch size is timed for, about."""


@dataclass(frozen=True)
class Size:
    """A network that is timed.

    Args:
        dtype: that it is run in.
        side: of its latents.
        batches: images at a time.
        memory: GiB that it needs with one image.
        seconds: that it takes, about.
        goal: what AsynDM may cost against stock, with the batch of `goal_batch`.
    """

    name: str
    dtype: torch.dtype
    side: int
    batches: tuple[int, ...]
    memory: float
    seconds: float
    goal: float | None = None
    goal_batch: int = 1


FULL = (
    Size("unet", torch.float16, 64, (1, 8, 16), 4, 40, 1.02, 8),
    Size("sd35", torch.bfloat16, 128, (1, 8, 16), 10, 50, 1.05, 8),
    Size("sdxl", torch.float16, 128, (1, 8, 16), 12, 50),
    Size("flux", torch.bfloat16, 128, (1, 8), 30, 50, 1.05),
    Size("unet", torch.bfloat16, 64, (8,), 4, 15),
)


def list_parts(setting: Setting) -> Iterator[Part]:
    """One for each network and dtype; the tiny ones of a CPU have no targets."""
    tiny = (Size(name, torch.float32, 16, (2,), 0, 2) for name in NETWORKS)
    for size in tiny if setting.small else FULL:
        make = partial(time_size, size, setting)
        aimed = size.goal is not None
        yield Part(CHECK, _name(size), make, size.seconds, size.memory, aimed=aimed)


@torch.no_grad()
def time_size(size: Size, setting: Setting) -> Iterator[Row]:
    """Times of each batch size that the memory has room for and that there is time for."""
    scale = "tiny" if setting.small else "full"
    case = replace(NETWORKS[size.name](scale, setting.device, size.dtype), side=size.side)
    peak = measure_peak(setting, size.dtype)
    yield Row(CHECK, _name(size), "matrix product, measured", peak / 1e12, "TFLOP/s")
    for batch in size.batches:
        named = f"{_name(size)} batch {batch}"
        try:
            yield from _time_batch(replace(case, batch=batch), named, size, peak, setting)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            yield Row(CHECK, named, NOT_RUN, note="too little memory")
            return


def _time_batch(case: Case, named: str, size: Size, peak: float, setting: Setting) -> Iterator[Row]:
    with FlopCounterMode(display=False) as counter:
        make_latents(case, 1)
    began = time.monotonic()
    make_latents(case, 1)
    if setting.on_gpu:
        torch.cuda.synchronize(setting.device)
    once = (time.monotonic() - began) * STEPS * len(KINDS)
    if 2 * once > setting.left:
        yield Row(CHECK, named, NOT_RUN, note=f"no time: takes about {2 * once:.0f} s")
        return
    spell = min(0.5 if setting.small else SPELL, setting.left)
    calls = min(8, max(1, int(spell / max(once, 1e-3)) - 1))
    timings = compare(case, setting.device, calls, STEPS, KINDS)
    yield from _describe(timings, case, named, size)
    for kind in (STOCK, OURS):
        share = counter.get_total_flops() / peak / timings[kind].median
        yield Row(CHECK, named, f"{kind}, share of the arithmetic floor", share)


def _describe(timings: dict[str, Timing], case: Case, named: str, size: Size) -> Iterator[Row]:
    stock = timings[STOCK]
    for kind, timing in timings.items():
        yield Row(CHECK, named, f"{kind}, step", 1000 * timing.median, "ms")
        speed = case.batch / (PICTURE * timing.median)
        note = f"{PICTURE} steps, decoder not counted"
        yield Row(CHECK, named, f"{kind}, speed", speed, "images/s", note=note)
        if kind == STOCK:
            continue
        ratio = Ratio.of(timing, stock)
        spread = f"quartiles {ratio.low:.3f} to {ratio.high:.3f}, {len(timing.seconds)} steps"
        aimed = kind == OURS and case.batch == size.goal_batch
        goal = size.goal if aimed else None
        yield Row(CHECK, named, f"{kind} / stock, step", ratio.value, "", goal, note=spread)
        if stock.memory:
            spread = f"{stock.memory:.2f} and {timing.memory:.2f} GiB"
            most = 1.03 if kind == OURS else None
            value = timing.memory / stock.memory
            yield Row(CHECK, named, f"{kind} / stock, peak memory", value, "", most, note=spread)


def measure_peak(setting: Setting, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of a few."""
    n = 512 if setting.small else 8192
    a, b = torch.randn((2, n, n), device=setting.device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        _wait(setting)
        began = time.perf_counter()
        a @ b
        _wait(setting)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def _wait(setting: Setting) -> None:
    if setting.on_gpu:
        torch.cuda.synchronize(setting.device)


def _name(size: Size) -> str:
    return f"{size.name} {str(size.dtype).removeprefix('torch.')}"
