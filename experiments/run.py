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
from collections.abc import Callable, Sequence, Set
from contextlib import closing

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL.Image import Image

from evaluation import pictures
from evaluation.choices import build
from evaluation.locks import clear_claims, locked, share_out
from evaluation.messages import describe
from evaluation.results import (
    IMAGES_FILE,
    PROMPTS_FILE,
    SHARDS,
    STATE_FILE,
    ImageRow,
    Run,
    is_whole_png,
    read_run,
    read_state,
    sha256,
    write_bytes,
    write_prompts,
)
from evaluation.scoring import Picture, add_missing, means, open_image, read_bases, score_table, write_basis
from evaluation.shared_rows import SharedRows
from experiments import config as schema
from experiments.checks import check
from experiments.folder import (
    GRID_FILE,
    batch_size,
    has_prompts,
    is_complete,
    is_made,
    missing_items,
    wants_strip,
)
from experiments.gpus import leased
from experiments.launch import missing_plugin
from experiments.plan import Item, Plan, make_plan, metrics
from experiments.record import add_timings, begin_record, has_record, threads_as_begun
from experiments.sampling import load_model, png, sample_missing
from experiments.signals import STATUS, Terminated, heard, stopping
from experiments.state import Progress, say_done, stated
from experiments.trackers import Forgiving, Tracker

GRID_SIZE = 64
"""Pictures in the grid."""

Key = tuple[str, int]
"""An image within a run: its prompt's id, and its place among the images of that prompt."""


class JobFailed(Exception):
    """A job failed and has said so: to the user, or to the log of a job that runs elsewhere."""

    told = True


def run(config: DictConfig) -> tuple[Plan, Run]:
    """Makes what is missing of one run, or of its shard, and returns all that is there.

    Raises:
        UserError: anything wrong with what was asked, before anything is sampled.
    """
    plan = make_plan(config)
    if not plan.batches(batch_size(plan)):
        say_nothing_to_do(plan)
        return plan, Run(plan.folder, {}, "done")
    found = is_complete(plan)
    if not found:
        check(plan)
        with stated(plan) as progress, leased(plan.device, plan.config["jobs_per_gpu"]):
            make(plan, progress)
    result = read_run(plan.folder)
    if found and result.state == "done":
        track_found(plan, result)
    print(summary(plan, result, found), flush=True)
    return plan, result


def make(plan: Plan, progress: Progress) -> None:
    """Samples, scores, draws and tracks; what other processes make of the same run meanwhile is theirs."""
    tracker = Forgiving(build(plan.config["tracker"]))
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
    """Draws the grid and tells the tracker, once all of the run is made: by the last of its processes.

    Args:
        started: whether the tracker was told of the beginning.
        tells: whether this process is the one that tells it.
    """

    def unfinished(_: int) -> bool:
        return read_state(plan.folder)["state"] != "done" or not is_whole_png(plan.folder / GRID_FILE)

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
    tracker = Forgiving(build(plan.config["tracker"]))
    if not tracker.has(plan):
        try:
            tracker.start(plan)
            tracker.finish(plan, result, means(result.scores))
        finally:
            tracker.close()


def image_table(plan: Plan) -> SharedRows[ImageRow]:
    """The run's ``images.csv``, in the order of the plan."""
    rank = {item.key: i for i, item in enumerate(plan.items)}
    return SharedRows(
        plan.folder / IMAGES_FILE,
        ImageRow,
        lambda rows: sorted((row for row in rows if row.key in rank), key=lambda row: rank[row.key]),
    )


def make_images(plan: Plan, progress: Progress, told: Callable[[int], None]) -> None:
    """Samples the missing images of this part and brings ``images.csv`` up to date.

    The scores of pictures that changed go first, so that an interruption leaves no score of another picture.
    """
    table, size = image_table(plan), batch_size(plan)
    before = dict(table.rows)
    own = [item for _, batch in plan.batches(size) for item in batch]
    missing = missing_items(plan, own)
    progress.tell(part=len(own), there=len(own) - len(missing))
    changed: set[Key] = set()
    made = 0

    def listed(item: Item) -> None:
        row = image_row(plan, item)
        if item.key in before and before[item.key].sha256 != row.sha256 and item.key not in changed:
            changed.add(item.key)
            drop_scores(plan, {item.key})
        table.put([row])

    def saved(item: Item) -> None:
        nonlocal made
        made += 1
        listed(item)
        progress.tell(made=made, there=len(own) - len(missing) + made)
        told(len(table.rows))

    try:
        for item in own:
            if item not in missing:
                listed(item)
        if missing or (wants_strip(plan) and own[:1] == list(plan.items[:1])) or not has_record(plan):
            progress.tell(phase="loading")
            pipe = load_model(plan)
            record = begin_record(plan, pipe)
            own = [item for _, batch in plan.batches(record["batch_size"]) for item in batch]
            missing = missing_items(plan, own)
            there = len(own) - len(missing)
            progress.tell(phase="sampling", part=len(own), there=there, loaded=progress.seconds)
            started = time.perf_counter()
            try:
                with threads_as_begun(plan):
                    sample_missing(plan, record["batch_size"], pipe, saved)
            finally:
                add_timings(plan, sampling_seconds=time.perf_counter() - started, images_sampled=made)
            table.refresh()
            for item in own:
                if item.key not in table.rows:
                    listed(item)
    finally:
        table.save()
    if changed:
        print(
            f"warning: {plan.folder.name}: {len(changed)} images came back different (machine, libraries?)",
            file=sys.stderr,
        )


def say_nothing_to_do(plan: Plan) -> None:
    """A shard can have no batch."""
    size = batch_size(plan)
    count = -(-len(plan.items) // size)
    print(
        f"{plan.label}: nothing for shard {plan.config['shard']}: the run has {count} batches of {size}; "
        "a smaller batch_size makes more",
        file=sys.stderr,
    )


def drop_scores(plan: Plan, changed: Set[Key]) -> None:
    """Takes the scores of these pictures out of ``scores.csv``."""
    table = score_table(plan.folder, scored(plan))
    table.drop({place for place, row in table.rows.items() if row.key in changed})


def image_row(plan: Plan, item: Item) -> ImageRow:
    """What ``images.csv`` says of an image that is there."""
    prompt = item.prompt
    subjects = tuple(subject.text for subject in prompt.subjects)
    return ImageRow(
        plan.run_id,
        prompt.prompt_id,
        prompt.text,
        subjects,
        prompt.kind,
        item.image_index,
        item.seed,
        item.file,
        sha256(plan.folder / item.file),
    )


def scored(plan: Plan) -> list[Picture]:
    """The pictures of a run, to be scored."""
    return [Picture(plan.folder / item.file, item.prompt, item.image_index) for item in plan.items]


def make_scores(plan: Plan, progress: Progress) -> None:
    """Scores what of this part has no score yet, or one on another basis (version, convention, model) of its metric.

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
        [open_image(result.folder / row.file) for row in shown], [row.prompt for row in shown], marks
    )


def summary(plan: Plan, result: Run, found: bool) -> str:
    """The run in one line."""
    timings = result.record["timings"]
    seconds = timings["sampling_seconds"]
    rate = f"{timings['images_sampled'] / seconds:.2f} images/s" if seconds else "not sampled here"
    lacking = Counter(row.metric for row in result.scores if row.value is None)
    told = [f"{name} {value:.3f}" for name, value in means(result.scores).items()]
    told += [f"{count} without {name}" for name, count in lacking.items()]
    scores = "  ".join(told) or "no scores"
    images = f"{len(result.images)} images"
    if plan.shard is not None:
        images = f"shard {plan.config['shard']}, {len(result.images)} of {len(plan.items)} images there"
    return f"{plan.label}  {images}  {scores}  {'found' if found else rate}  {plan.folder}"


def job(config: DictConfig) -> float | None:
    """One job: its failure is told in one line, and the next one still runs.

    Returns:
        what a search maximises, if this is one.
    """
    if stopping():
        raise JobFailed("the sweep was told to stop")
    try:
        with heard():
            return objective(*run(config))
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr, flush=True)
        if HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(1) from error
        failure = JobFailed(describe(error))
        failure.told = "SUBMITIT_EXECUTOR" not in os.environ
        raise failure from error


def objective(plan: Plan, result: Run) -> float | None:
    """The mean of the metric that a search is for."""
    name = plan.config["objective"]
    return None if name is None else means(result.scores)[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0, 1 for any error, 130 when interrupted, 143 when terminated.

    Hydra is made to raise its errors rather than print them, so that each can be told in one line; with
    HYDRA_FULL_ERROR=1 in the environment the traceback comes as well.
    """
    schema.register()
    program, wish = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [program[0], *(program[1:] if arguments is None else arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with heard():
            hydra.main(version_base="1.3", config_path=str(schema.CONF), config_name="config")(job)()
        return 0
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return STATUS[Terminated if stopping() else type(stop)]
    except SystemExit as end:
        if end.__cause__ is not None and wish not in (None, "0"):
            traceback.print_exception(end.__cause__)
        if isinstance(end.code, str):
            print(f"error: {end.code}", file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except Exception as error:
        if not isinstance(error, JobFailed) or not error.told:
            print(f"error: {missing_plugin(error) or describe(error)}", file=sys.stderr)
        if wish not in (None, "0"):
            traceback.print_exception(error)
        return 1
    finally:
        sys.argv = program
        if wish is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = wish


if __name__ == "__main__":
    from experiments.run import (
        main as importable,
    )  # of a module by this name, not of __main__: workers import it

    sys.exit(importable())
