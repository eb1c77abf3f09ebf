"""The cost of asynchrony: a step of AsynDM against one of the stock pipeline.

    python -m experiments.studies.benchmark                             # all four, small
    python -m experiments.studies.benchmark --network unet --size full  # on a GPU

AsynDM's step (64 timesteps in the picture, attention read, mask, per-pixel update) and the stock
pipeline's are timed on the same random weights, their calls in turn: one image of 64x64 latents,
with guidance where the pipeline has two rows for it. On a GPU also the peak of memory.

``small``, the default, takes five minutes on a CPU. ``full`` has the sizes of Stable Diffusion 2.1
and XL, Stable Diffusion 3.5 medium and FLUX.1: for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from asyndm.errors import UserError
from asyndm.models import choose_device, choose_dtype
from evaluation.commands import Parser, command_line
from experiments.timing.cases import NETWORKS, UNETS
from experiments.timing.steps import OURS, STOCK, Ratio, compare


def report(
    name: str, size: str, device: torch.device, dtype: torch.dtype, calls: int, steps: int
) -> None:
    """Times one network and prints the line."""
    timings = compare(NETWORKS[name](size, device, dtype), device, calls, steps)
    stock, ours = timings[STOCK], timings[OURS]
    ratio = Ratio.of(ours, stock)
    line = (
        f"{name:5} {size:5} {device.type} {str(dtype).removeprefix('torch.')}: stock "
        f"{1000 * stock.median:.1f} ms, AsynDM {1000 * ours.median:.1f} ms a step, ratio "
        f"{ratio.value:.3f} (quartiles of the pairs {ratio.low:.3f} to {ratio.high:.3f}, "
        f"{len(ours.seconds)} steps)"
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
