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
from collections.abc import Sequence, Set

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL.Image import Image

from evaluation import pictures
from evaluation.choices import build
from evaluation.messages import describe
from evaluation.results import (
    IMAGES_FILE,
    PROMPTS_FILE,
    RUN_FILE,
    SCORES_FILE,
    ImageRow,
    Run,
    ScoreRow,
    locked,
    read_rows,
    read_run,
    sha256,
    write_bytes,
    write_prompts,
    write_rows,
)
from evaluation.scoring import Picture, add_missing, means, open_image, read_bases, write_basis
from experiments import config as schema
from experiments.checks import check
from experiments.folder import GRID_FILE, is_complete, missing_items, stated, wants_strip
from experiments.plan import Item, Plan, make_plan, metrics
from experiments.record import add_timings, begin_record
from experiments.sampling import load_model, png, sample_missing
from experiments.trackers import Forgiving, Tracker

GRID_SIZE = 64
"""Pictures in the grid."""
KEEP_EVERY = 20.0
"""Seconds between two writings of images.csv while sampling."""


Key = tuple[str, int]
"""An image within a run: its prompt's id, and its place among the images of that prompt."""


class JobFailed(Exception):
    """A job failed and has said so."""


def run(config: DictConfig) -> Run:
    """Makes what is missing of one run and returns all of it.

    Raises:
        UserError: anything wrong with what was asked, before anything is sampled.
    """
    plan = make_plan(config)
    found = is_complete(plan)
    if not found:
        check(plan)
        with locked(plan.folder):
            found = is_complete(plan)
            if not found:
                with stated(plan.folder):
                    make(plan)
    result = read_run(plan.folder)
    if found:
        track_found(plan, result)
    print(summary(plan, result, found), flush=True)
    return result


def make(plan: Plan) -> None:
    """Samples, scores, draws and tracks."""
    tracker = Forgiving(build(plan.config["tracker"]))
    try:
        tracker.start(plan)
        write_prompts(plan.folder / PROMPTS_FILE, plan.prompts)
        make_images(plan, tracker)
        make_scores(plan)
        result = read_run(plan.folder)
        write_bytes(plan.folder / GRID_FILE, png(draw_grid(result)))
        tracker.finish(plan, result, means(result.scores))
    finally:
        tracker.close()


def track_found(plan: Plan, result: Run) -> None:
    """Tells the tracker of a run that was made without it."""
    tracker = Forgiving(build(plan.config["tracker"]))
    if not tracker.has(plan):
        try:
            tracker.start(plan)
            tracker.finish(plan, result, means(result.scores))
        finally:
            tracker.close()


def make_images(plan: Plan, tracker: Tracker) -> None:
    """Samples the missing images and brings ``images.csv`` up to date.

    The scores of pictures that changed go first, so that an interruption leaves no score of another picture.
    """
    listed = {row.key: row for row in read_rows(plan.folder / IMAGES_FILE, ImageRow)}
    before = {item.key: listed[item.key] for item in plan.items if item.key in listed}
    rows = dict(before)
    missing = missing_items(plan)
    rows |= {item.key: image_row(plan, item) for item in plan.items if item not in missing}
    made, last = 0, time.monotonic()

    def saved(item: Item) -> None:
        nonlocal made, last
        made += 1
        rows[item.key] = image_row(plan, item)
        if time.monotonic() - last > KEEP_EVERY:
            keep()
            tracker.progress(len(rows))
            last = time.monotonic()

    def keep() -> None:
        drop_scores(plan, {key for key, row in before.items() if rows[key].sha256 != row.sha256})
        present = [rows[item.key] for item in plan.items if item.key in rows]
        write_rows(plan.folder / IMAGES_FILE, ImageRow, present)

    try:
        if missing or wants_strip(plan) or not (plan.folder / RUN_FILE).exists():
            pipe = load_model(plan)
            record = begin_record(plan, pipe)
            started = time.perf_counter()
            try:
                sample_missing(plan, record["batch_size"], pipe, saved)
            finally:
                add_timings(plan, sampling_seconds=time.perf_counter() - started, images_sampled=made)
    finally:
        keep()
    if changed := sum(rows[key].sha256 != row.sha256 for key, row in before.items()):
        print(
            f"warning: {plan.folder.name}: {changed} images came back different (machine, libraries?)",
            file=sys.stderr,
        )


def drop_scores(plan: Plan, changed: Set[Key]) -> None:
    """Takes the scores of these pictures out of ``scores.csv``."""
    scores = read_rows(plan.folder / SCORES_FILE, ScoreRow) if changed else []
    kept = [row for row in scores if row.key not in changed]
    if len(kept) < len(scores):
        write_rows(plan.folder / SCORES_FILE, ScoreRow, kept)


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


def make_scores(plan: Plan) -> None:
    """Scores what has no score yet, or one on another basis (version, convention, model) of its metric.

    The pictures are read from their files: a score is of what was kept.
    """
    path, size = plan.folder / SCORES_FILE, plan.config["batch_size"]
    rows = read_rows(path, ScoreRow)
    bases = read_bases(plan.folder)
    made = [Picture(plan.folder / item.file, item.prompt, item.image_index) for item in plan.items]
    started = time.perf_counter()
    for name, metric in metrics(plan).items():
        if bases.get(name) != metric.basis:
            rows = [row for row in rows if row.metric != name]
            write_rows(path, ScoreRow, rows)
            write_basis(plan.folder, metric)
        try:
            rows, _ = add_missing(path, metric, made, plan.run_id, size, delay=2)
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
    return f"{plan.label}  {len(result.images)} images  {scores}  {'found' if found else rate}  {plan.folder}"


def job(config: DictConfig) -> None:
    """One job: its failure is told in one line, and the next one still runs."""
    try:
        run(config)
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr, flush=True)
        if HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(1) from error
        raise JobFailed from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0, 1 for any error, 130 when interrupted.

    Hydra is made to raise its errors rather than print them, so that each can be told in one line; with
    HYDRA_FULL_ERROR=1 in the environment the traceback comes as well.
    """
    schema.register()
    program, wish = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [program[0], *(program[1:] if arguments is None else arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(schema.CONF), config_name="config")(job)()
        return 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.__cause__ is not None and wish not in (None, "0"):
            traceback.print_exception(end.__cause__)
        if isinstance(end.code, str):
            print(f"error: {end.code}", file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except Exception as error:
        if not isinstance(error, JobFailed):
            print(f"error: {describe(error)}", file=sys.stderr)
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
    sys.exit(main())
