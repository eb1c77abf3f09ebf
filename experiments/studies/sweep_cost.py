"""What a sweep costs, against its pictures by the stock pipeline and their scores alone.

    python -m experiments.studies.sweep_cost  # the embedded model, three methods by three curves
    python -m experiments.studies.sweep_cost limit=100 batch_size=25 --repeats 5

The sweep is the whole command: planning, checks, asynchronous sampling, PNGs, traces, tables,
state, grids and scores by three metrics. Against it stand as many pictures of the same prompts,
seeds, steps and batches by the stock pipeline, and the same metrics on them, with nothing kept.
Networks are loaded before both sides, which take turns. Seconds are those of the processor, which
other work on the machine changes least; with a model on a GPU, those of the clock.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from asyndm.errors import UserError
from evaluation.commands import command_line
from evaluation.runs.folder import find_runs, read_run
from experiments.engine.at_hand import take_metrics
from experiments.engine.plan import Plan, make_metrics, make_plan
from experiments.engine.sampling import load_model
from experiments.run import main as run_sweep
from experiments.studies.overhead import compose_config, read_study_command

DEFAULTS = ("limit=32", "metric=[exact,clip_shapes,blip_vqa_shapes]", "batch_invariant=false")
SWEEP = ("mask=none,global,dynamic", "curve=quadratic,piecewise_linear,exponential")


def make_sweep(settings: Sequence[str], folder: Path) -> int:
    """Makes all runs of the sweep in an empty folder.

    Returns:
        how many pictures they have.

    Raises:
        UserError: it did not succeed.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = run_sweep(["-m", "-q", *settings, *SWEEP, f"output_dir={folder}"])
    if status:
        raise UserError(said.getvalue().strip().splitlines()[-1])
    return sum(len(read_run(run).images) for run in find_runs([folder]))


@torch.no_grad()
def make_alone(plan: Plan, count: int) -> None:
    """Makes and scores pictures by the stock pipeline, those of the plan over and over, nothing
    kept."""
    pipe, metrics = load_model(plan), take_metrics(make_metrics(plan))
    identity = plan.identity
    settings = {
        "num_inference_steps": identity["num_inference_steps"],
        "guidance_scale": identity["guidance"]["guidance_scale"],
        "eta": identity["eta"],
    }
    known = signature(type(pipe).__call__).parameters
    settings = {name: value for name, value in settings.items() if name in known}
    for _ in range(count // len(plan.items)):
        for _, batch in plan.batches(plan.config["batch_size"]):
            prompts = [item.prompt for item in batch]
            images = pipe(
                [prompt.text for prompt in prompts],
                generator=[torch.Generator().manual_seed(item.seed) for item in batch],
                **settings,
            ).images
            for metric in metrics.values():
                metric.score(images, prompts)


def compare(
    settings: Sequence[str], plan: Plan, clock: Callable[[], float]
) -> tuple[int, float, float]:
    """Both sides once: pictures, and the seconds of the sweep and of the stock pipeline."""
    with TemporaryDirectory() as folder:
        started = clock()
        count = make_sweep(settings, Path(folder))
        between = clock()
        make_alone(plan, count)
        return count, between - started, clock() - between


@command_line(errors=(UserError,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    given, repeats = read_study_command("experiments.studies.sweep_cost", __doc__, arguments)
    settings = [*DEFAULTS, *given]
    plan = make_plan(compose_config(settings))
    pipe = load_model(plan)
    is_cuda = pipe._execution_device.type == "cuda"
    clock = time.perf_counter if is_cuda else time.process_time
    torch.set_num_threads(plan.config["model"].get("threads") or torch.get_num_threads())
    with TemporaryDirectory() as folder:
        make_sweep([*settings, "limit=2"], Path(folder))  # what is done once in a process
    make_alone(plan, len(plan.items))
    ratios = []
    for _ in range(repeats):
        count, whole, alone = compare(settings, plan, clock)
        ratios.append(whole / alone)
        print(f"{count} pictures: sweep {whole:.1f} s, alone {alone:.1f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
