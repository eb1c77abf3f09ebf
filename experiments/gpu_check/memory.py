"""A batch for which the memory does not suffice is made in halves, and its pictures stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from asyndm import sample
from asyndm.protocols import Pipeline
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import Spec, prompts
from evaluation.memory import Room, process_in_parts
from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import Row

CHECK, CASE = "memory", "shapes AsynDM"
Make = Callable[[Sequence[tuple[int, Spec]]], Tensor]


def list_parts(setting: Setting) -> Iterator[Part]:
    """One."""
    yield Part(CHECK, CASE, partial(halve, setting), seconds=15, aimed=True)


def halve(setting: Setting) -> Iterator[Row]:
    """The pictures of a batch that does not fit against those of its halves."""
    count, steps = (4, 2) if setting.small else (64, 4)
    pipe = load_pipeline().to(setting.device)
    pipe.set_progress_bar_config(disable=True)
    things = list(enumerate((prompts("test", "two") * count)[:count]))
    make = partial(_sample, pipe, steps)
    whole, half = (_measure_peak(make, things[:n], setting) for n in (count, count // 2))
    expected = torch.cat([make(things[: count // 2]), make(things[count // 2 :])])
    room = Room(count)
    limit = _limit_memory if setting.on_gpu else _feign_limit
    with limit(make, (half + whole) / 2, count // 2, setting) as limited:
        made = torch.cat(list(process_in_parts(things, limited, room, "no room for one")))
    how = f"peak of {count}: {whole:.2f} GiB, of {count // 2}: {half:.2f} GiB"
    how = how if setting.on_gpu else "feigned: an error above half a batch"
    size = float(room.size)
    yield Row(CHECK, CASE, "batch that fits", size, "images", most=count // 2, note=how)
    difference = float((made - expected).abs().max())
    # With less memory cuDNN may choose other kernels: less than half a grey level is no other
    # picture.
    most = 0.002 if setting.on_gpu else 0.0
    yield Row(CHECK, CASE, "pictures, largest difference", difference, most=most)


def _sample(pipe: Pipeline, steps: int, things: Sequence[tuple[int, Spec]]) -> Tensor:
    pictures: Tensor = sample(
        pipe,
        [spec.text for _, spec in things],
        [list(spec.subjects) for _, spec in things],
        seed=[seed for seed, _ in things],
        num_inference_steps=steps,
        batch_invariant=False,
        guidance_scale=5.0,
        output_type="pt",
    )
    return pictures.float().cpu()


def _measure_peak(make: Make, things: Sequence[tuple[int, Spec]], setting: Setting) -> float:
    """GiB that torch keeps for a batch at most."""
    if not setting.on_gpu:
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    make(things)
    return torch.cuda.max_memory_reserved(setting.device) / 2**30


@contextmanager
def _limit_memory(make: Make, gib: float, most: int, setting: Setting) -> Iterator[Make]:
    """Inside, this process has no more of the GPU's memory."""
    total = torch.cuda.get_device_properties(setting.device).total_memory / 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gib / total, setting.device)
    try:
        yield make
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)


@contextmanager
def _feign_limit(make: Make, gib: float, most: int, setting: Setting) -> Iterator[Make]:
    """Inside, larger batches end as they do on a GPU."""

    def refuse(things: Sequence[tuple[int, Spec]]) -> Tensor:
        if len(things) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(things)

    yield refuse
