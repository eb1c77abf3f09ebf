"""The cost of asynchrony: a step of AsynDM against one of the stock pipeline.

    python -m experiments.studies.benchmark                               # all three, small
    python -m experiments.studies.benchmark --network unet --size full  # on a GPU

AsynDM's step (64 timesteps in the picture, attention read, mask, per-pixel update) and the stock
pipeline's are timed on the same random weights, their calls in turn: one image of 64x64 latents,
with guidance where the pipeline has two rows for it. On a GPU also the peak of memory.

``small``, the default, takes four minutes on a CPU. ``full`` has the sizes of Stable Diffusion 2.1,
Stable Diffusion 3.5 medium and FLUX.1: for a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.curves import Quadratic
from asyndm.errors import UserError
from asyndm.masks import DynamicMask, Scene
from asyndm.method import Method
from asyndm.models import choose_device, choose_dtype
from asyndm.networks import find_denoiser, find_family
from asyndm.protocols import Pipeline
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from evaluation.commands import Parser, command_line
from experiments.studies.benchmark.cases import LATENT, NETWORKS, UNETS, Case

LEVELS = 64
"""Timesteps in the picture."""


class GradedMask(DynamicMask):
    """Reads attention as AsynDM does, and then takes a picture with 64 greys: as many timesteps as
    a mask that settles slowly leaves behind."""

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        height, width = scene.size
        place = torch.arange(height * width, device=scene.concavity.device).view(height, width)
        return scene.weights(1.0) * (place * LEVELS // (height * width) / LEVELS)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        super().follow(weights, maps, scene)
        return weights


def build_session(pipe: Pipeline) -> Session:
    """The pipeline with two subjects, as AsynDM."""
    concavity = torch.full((1, 2), 0.5, dtype=torch.float64)
    family = find_family(pipe)
    reader = family.attention(find_denoiser(pipe), [[[2], [5, 6]]], Reading())
    method = Method(Quadratic(), GradedMask(), concavity)
    return Session(pipe, family, AsynchronousScheduler(pipe.scheduler, method), reader)


@dataclass
class Timing:
    """Seconds of each step, and the largest memory of any call in GiB."""

    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0


def time_call(case: Case, steps: int, device: torch.device, timing: Timing) -> None:
    """One call of the pipeline; the first step, which warms up, is not counted."""
    marks: list[float] = []

    def mark(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
        return values

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    case.pipe(
        **case.call,
        height=8 * LATENT,
        width=8 * LATENT,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=mark,
        output_type="latent",
    )
    timing.seconds += [after - before for before, after in zip(marks, marks[1:], strict=False)]
    if device.type == "cuda":
        timing.memory = max(timing.memory, torch.cuda.max_memory_allocated(device) / 2**30)


@torch.no_grad()
def compare(case: Case, device: torch.device, calls: int, steps: int) -> tuple[Timing, Timing]:
    """Stock and asynchronous calls in turn; the first of both is not counted."""
    stock, ours = Timing(), Timing()
    for call in range(calls + 1):
        for timing in (stock, ours):
            kept = timing if call else Timing()
            if timing is stock:
                time_call(case, steps, device, kept)
            else:
                with build_session(case.pipe).open():
                    time_call(case, steps, device, kept)
    return stock, ours


def report(
    name: str, size: str, device: torch.device, dtype: torch.dtype, calls: int, steps: int
) -> None:
    """Times one network and prints the line."""
    case = NETWORKS[name](size, device, dtype)
    case.pipe.set_progress_bar_config(disable=True)
    stock, ours = compare(case, device, calls, steps)
    before, after = (1000 * statistics.median(timing.seconds) for timing in (stock, ours))
    ratios = [a / b for a, b in zip(ours.seconds, stock.seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    line = (
        f"{name:5} {size:5} {device.type} {str(dtype).removeprefix('torch.')}: stock "
        f"{before:.1f} ms, AsynDM {after:.1f} ms a step, ratio {after / before:.3f} (quartiles of "
        f"the pairs {low:.3f} to {high:.3f}, {len(ours.seconds)} steps)"
    )
    if device.type == "cuda":
        line += f", memory {stock.memory:.2f} and {ours.memory:.2f} GiB"
    print(line, flush=True)


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.studies.benchmark", __doc__)
    parser.add_argument(
        "--network", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}"
    )
    parser.add_argument("--size", choices=[*UNETS], default="small", help="of the networks")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--calls", type=int, default=5, help="calls of each kind")
    parser.add_argument("--steps", type=int, default=6, help="steps of a call")
    chosen = parser.read(arguments)
    names = chosen.network.split(",")
    if unknown := sorted(set(names) - set(NETWORKS)):
        parser.error(f"--network {unknown[0]}: choose from {', '.join(NETWORKS)}")
    if not 1 <= chosen.calls <= 1000 or not 3 <= chosen.steps <= 1000:
        parser.error("--calls must be from 1 to 1000 and --steps from 3 to 1000")
    try:
        device = choose_device(chosen.device)
        dtype = choose_dtype(chosen.dtype, device)
    except UserError as error:
        parser.error(str(error))
    for name in names:
        report(name, chosen.size, device, dtype, chosen.calls, chosen.steps)
    return 0
