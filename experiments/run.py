"""One run, or with ``-m`` a sweep of runs: pictures, their scores, and a record of both.

    python -m experiments.run mask=none limit=64
    python -m experiments.run -m mask=none,global,dynamic curve=quadratic,exponential eta=0,1
    python -m experiments.run experiment=demo

A run asked for again is found; one that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL.Image import Image

from asyndm.terminal import ends_quietly, printable
from evaluation.messages import counted, describe
from evaluation.runs import sheets as pictures
from evaluation.runs.files import is_whole_png, write_bytes
from evaluation.runs.folder import (
    PROMPTS_FILE,
    SHARDS,
    STATE_FILE,
    Run,
    read_run,
    read_state,
    write_prompts,
)
from evaluation.runs.locks import clear_claims, locked, share_out
from evaluation.scoring import add_missing, means, open_image, read_bases, score_table, write_basis
from experiments.engine import schema as schema
from experiments.engine.folder import (
    GRID_FILE,
    batch_size,
    complete_run,
    has_prompts,
    is_made,
    wants_strip,
)
from experiments.engine.gpu_lease import leased
from experiments.engine.heartbeat import Progress, say_done, stated
from experiments.engine.hydra_app import start
from experiments.engine.images import Key, make_images, scored
from experiments.engine.manifest import forget_planned, plan_job
from experiments.engine.plan import Plan, build_choice, metrics
from experiments.engine.preflight import check, check_choices
from experiments.engine.record import add_timings, threads_as_begun
from experiments.engine.relay import SAID, followed
from experiments.engine.sampling import png
from experiments.engine.signals import STATUS, JobFailed, Terminated, heard, stopping
from experiments.engine.trackers import Forgiving, Tracker
from experiments.engine.workers import lost_job, missing_plugin

GRID_SIZE = 64
"""Pictures in the grid."""


def run(config: DictConfig) -> tuple[Plan, Run]:
    """Makes what is missing of one run, or of its shard, and returns all that is there.

    Raises:
        UserError: anything wrong with what was asked, before anything is sampled.
    """
    plan = plan_job(config)
    check_choices(plan)
    if not plan.batches(batch_size(plan)):
        say_nothing_to_do(plan)
        return plan, Run(plan.folder, {}, "done")
    found = complete_run(plan)
    if found is None:
        check(plan)
        with stated(plan) as progress, leased(plan.device, plan.config["jobs_per_gpu"]):
            make(plan, progress)
    result = found or read_run(plan.folder)
    if found and result.state == "done":
        track_found(plan, result)
    print(printable(summary(plan, result, found is not None)), flush=True)
    return plan, result


def make(plan: Plan, progress: Progress) -> None:
    """Samples, scores, draws and tracks; what other processes make of the same run meanwhile is
    theirs."""
    tracker = Forgiving(build_choice("tracker", plan.config["tracker"], Tracker))
    tracks = plan.shard is None and progress.owner
    try:
        if tracks:
            tracker.start(plan)
        if not has_prompts(plan):
            write_prompts(plan.folder / PROMPTS_FILE, plan.prompts)
        make_images(plan, progress, tracker.progress if tracks else lambda images: None)
        make_scores(plan, progress)
        progress.tell(phase="finishing")
        finish(plan, tracker, tracks, tracks or plan.shard is not None or progress.owner)
    finally:
        tracker.close()


def finish(plan: Plan, tracker: Tracker, started: bool, tells: bool) -> None:
    """Draws the grid and tells the tracker, once all of the run is made: by the last of its
    processes.

    Args:
        started: whether the tracker was told of the beginning.
        tells: whether this process is the one that tells it.
    """

    def unfinished(_: int) -> bool:
        return read_state(plan.folder)["state"] != "done" or not is_whole_png(
            plan.folder / GRID_FILE
        )

    result = read_run(plan.folder)
    if wants_strip(plan) or not is_made(plan, result, plan.items):
        return
    with closing(share_out(plan.folder, ["finish"], unfinished)) as parts:
        for _ in parts:
            clear_leftovers(plan)
            write_bytes(plan.folder / GRID_FILE, png(draw_grid(result)))
            if started or (tells and not tracker.has(plan)):
                if not started:
                    tracker.start(plan)
                tracker.finish(plan, result, means(result.scores))
            if plan.shard is not None:
                say_done(plan)
    clear_claims(plan.folder)


def clear_leftovers(plan: Plan) -> None:
    """Removes what killed processes left half-written under temporary names, where all is made."""
    with locked(plan.folder):
        for leftover in plan.folder.rglob(".*.tmp"):
            if not leftover.name.startswith(f".{STATE_FILE}") and leftover.parent.name != SHARDS:
                leftover.unlink(missing_ok=True)


def track_found(plan: Plan, result: Run) -> None:
    """Tells the tracker of a run that was made without it."""
    tracker = Forgiving(build_choice("tracker", plan.config["tracker"], Tracker))
    if not tracker.has(plan):
        try:
            tracker.start(plan)
            tracker.finish(plan, result, means(result.scores))
        finally:
            tracker.close()


def say_nothing_to_do(plan: Plan) -> None:
    """A shard can have no batch."""
    size = batch_size(plan)
    count = -(-len(plan.items) // size)
    print(
        f"{plan.label}: nothing for shard {plan.config['shard']}: the run has {count} batches of "
        f"{size}; "
        "a smaller batch_size makes more",
        file=sys.stderr,
    )


def make_scores(plan: Plan, progress: Progress) -> None:
    """Scores what of this part has no score yet, or one on another basis (version, convention,
    model) of its metric.

    The pictures are read from their files: a score is of what was kept.
    """
    size, pictures = batch_size(plan), scored(plan)
    mine = {number for number, _ in plan.batches(size)}
    started = time.perf_counter()
    for name, metric in metrics(plan).items():
        progress.tell(phase=f"scoring {name}")
        with locked(plan.folder):
            table = score_table(plan.folder, pictures)
            if read_bases(plan.folder).get(name) != metric.basis:
                table.drop({place for place, row in table.rows.items() if row.metric == name})
                write_basis(plan.folder, metric)
        try:
            with threads_as_begun(plan):
                add_missing(table, metric, pictures, plan.run_id, size, mine.__contains__, delay=2)
        finally:
            metric.release()
    add_timings(plan, scoring_seconds=time.perf_counter() - started)


def draw_grid(result: Run) -> Image:
    """The first images, framed by whether they are right where a metric says so."""
    values: dict[str, dict[Key, float]] = {}
    for row in result.scores:
        if row.value is not None:
            values.setdefault(row.metric, {})[row.key] = row.value
    right: dict[Key, float] = next((of for of in values.values() if {*of.values()} <= {0, 1}), {})
    shown = result.images[:GRID_SIZE]
    marks = [right[row.key] == 1 if row.key in right else None for row in shown]
    return pictures.grid(
        [open_image(result.folder / row.file) for row in shown],
        [row.prompt for row in shown],
        marks,
    )


def summary(plan: Plan, result: Run, found: bool) -> str:
    """The run in one line."""
    timings = result.record["timings"]
    seconds = timings.get("sampling_seconds", 0)
    rate = (
        f"{timings.get('images_sampled', 0) / seconds:.2f} images/s"
        if seconds
        else "not sampled here"
    )
    lacking = Counter(row.metric for row in result.scores if row.value is None)
    told = [f"{name} {value:.3f}" for name, value in means(result.scores).items()]
    told += [f"{count} without {name}" for name, count in lacking.items()]
    scores = "  ".join(told) or "no scores"
    images = counted(len(result.images), "image")
    if plan.shard is not None:
        images = (
            f"shard {plan.config['shard']}, {len(result.images)} of {len(plan.items)} images there"
        )
    return f"{plan.label}  {images}  {scores}  {'found' if found else rate}  {plan.folder}"


def job(config: DictConfig) -> float | None:
    """One job: its failure is told in one line, and the next one still runs.

    Returns:
        what a search maximises, if this is one.
    """
    if stopping():
        raise JobFailed("the sweep was told to stop")
    with ends_quietly():
        return _job(config)


def _job(config: DictConfig) -> float | None:
    try:
        with heard():
            return objective(*run(config))
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr, flush=True)
        if HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(1) from error
        failure = JobFailed(describe(error))
        failure.told = "SUBMITIT_EXECUTOR" not in os.environ or SAID in os.environ
        raise failure from error


def objective(plan: Plan, result: Run) -> float | None:
    """The mean of the metric that a search is for."""
    name = plan.config["objective"]
    return None if name is None else means(result.scores)[name]


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0, 1 for any error, 130 when interrupted, 143 when
    terminated.

    Hydra is made to raise its errors rather than print them, so that each can be told in one line;
    with HYDRA_FULL_ERROR=1 in the environment the traceback comes as well.
    """
    schema.register()
    wish = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with heard(), followed():
            start(job, sys.argv[1:] if arguments is None else arguments)
        return 0
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return STATUS[Terminated if stopping() else type(stop)]
    except SystemExit as end:
        if end.__cause__ is not None and wish not in (None, "0"):
            traceback.print_exception(end.__cause__)
        if isinstance(end.code, str):
            print(printable(f"error: {end.code}"), file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except Exception as error:
        if not isinstance(error, JobFailed) or not error.told:
            reason = missing_plugin(error) or lost_job(error) or describe(error)
            print(printable(f"error: {reason}"), file=sys.stderr)
        if wish not in (None, "0"):
            traceback.print_exception(error)
        return 1
    finally:
        forget_planned()
        if wish is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = wish


if __name__ == "__main__":
    from experiments.run import (
        main as importable,
    )  # of a module by this name, not of __main__: workers import it

    sys.exit(importable())
