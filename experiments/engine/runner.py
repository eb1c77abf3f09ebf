"""A run from its plan to the last of its files: pictures, scores, grid, tracker."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from PIL.Image import Image

from asyndm.terminal import printable
from evaluation.messages import count_things
from evaluation.runs import sheets
from evaluation.runs.folder import GRID_FILE, Run
from evaluation.runs.images import open_image
from evaluation.runs.locks import clear_claims, share_out
from evaluation.runs.rows import ImageKey
from evaluation.scoring import average_scores
from experiments.engine.folder import PlannedFolder
from experiments.engine.gpu_lease import lease_gpu
from experiments.engine.heartbeat import Heartbeat, keep_heartbeat, mark_done
from experiments.engine.identity import build_choice
from experiments.engine.images import make_images
from experiments.engine.plan import Plan
from experiments.engine.preflight import check, check_choices
from experiments.engine.sampling import encode_png
from experiments.engine.scores import Scorer
from experiments.engine.trackers import ForgivingTracker, Tracker

GRID_SIZE = 64
"""Pictures in the grid."""


class Runner:
    """Makes what is missing of one run, or of its shard; what other processes make of the same run
    meanwhile is theirs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = PlannedFolder(plan)

    def run(self) -> Run:
        """All that is there once nothing is missing, told in a line.

        Raises:
            UserError: anything wrong with what was asked, before anything is sampled.
        """
        check_choices(self.plan)
        if not self.folder.own_items:
            self._say_nothing_to_do()
            return Run(self.plan.folder, {}, "done")
        found = self.folder.find()
        if found is not None:
            self._track_found(found)
            print(printable(self._summarise(found, "found")), flush=True)
            return found
        check(self.plan)
        with (
            keep_heartbeat(self.plan) as heartbeat,
            lease_gpu(self.plan.device, self.plan.config["jobs_per_gpu"]),
        ):
            self._make(heartbeat)
        result = self.folder.read()
        print(printable(self._summarise(result, format_sampling_rate(result))), flush=True)
        return result

    def _make(self, heartbeat: Heartbeat) -> None:
        """Samples, scores, draws and tracks."""
        tracker = self._build_tracker()
        tracks = self.plan.shard is None and heartbeat.is_owner
        try:
            if tracks:
                tracker.start(self.plan)
            if not self.folder.has_prompts(self.plan.prompts):
                self.folder.write_prompts(self.plan.prompts)
            report = tracker.progress if tracks else lambda images: None
            scorer = Scorer(self.folder)
            make_images(self.folder, heartbeat, report, scorer)
            scorer.score_all(heartbeat)
            heartbeat.tell(phase="finishing")
            self._finish(tracker, tracks, self.plan.shard is not None or heartbeat.is_owner)
        finally:
            tracker.close()

    def _finish(self, tracker: Tracker, started: bool, tells: bool) -> None:
        """Draws the grid and tells the tracker, once all of the run is made: by the last of its
        processes.

        Args:
            tracker: of this process.
            started: whether the tracker was told of the beginning.
            tells: whether this process is the one that tells it.
        """

        def is_unfinished(_: int) -> bool:
            return self.folder.state != "done" or not self.folder.is_whole(GRID_FILE)

        result = self.folder.read()  # with what other processes made meanwhile
        if self.folder.wants_strip or not self.folder.is_made(result, self.plan.items):
            return
        with closing(share_out(self.folder.path, ["finish"], is_unfinished)) as parts:
            for _ in parts:
                self.folder.clear_leftovers()
                grid = encode_png(draw_grid(result))
                self.folder.write_picture(GRID_FILE, grid, durable=True)
                if started or (tells and not tracker.has(self.plan)):
                    if not started:
                        tracker.start(self.plan)
                    tracker.finish(self.plan, result, average_scores(result.scores))
                if self.plan.shard is not None:
                    mark_done(self.plan)
        clear_claims(self.folder.path)

    def _build_tracker(self) -> Tracker:
        return ForgivingTracker(build_choice("tracker", self.plan.config["tracker"], Tracker))

    def _track_found(self, result: Run) -> None:
        """Tells the tracker of a finished run that was made without it."""
        if result.state != "done":
            return
        tracker = self._build_tracker()
        if not tracker.has(self.plan):
            try:
                tracker.start(self.plan)
                tracker.finish(self.plan, result, average_scores(result.scores))
            finally:
                tracker.close()

    def _summarise(self, result: Run, how: str) -> str:
        """The run in one line: what it is, its images, its scores, how it was come by, and where it
        lies."""
        without = Counter(row.metric for row in result.scores if row.value is None)
        scores = [f"{name} {value:.3f}" for name, value in average_scores(result.scores).items()]
        scores += [f"{count} without {name}" for name, count in without.items()]
        images = count_things(len(result.images), "image")
        if self.plan.shard is not None:
            there = f"{len(result.images)} of {len(self.plan.items)}"
            images = f"shard {self.plan.config['shard']}, {there} images there"
        parts = (self.plan.label, images, "  ".join(scores) or "no scores", how, self.plan.folder)
        return "  ".join(map(str, parts))

    def _say_nothing_to_do(self) -> None:
        """A shard can have no batch."""
        size = self.folder.batch_size
        count = -(-len(self.plan.items) // size)
        print(
            f"{self.plan.label}: nothing for shard {self.plan.config['shard']}: the run has "
            f"{count} batches of {size}; a smaller batch_size makes more",
            file=sys.stderr,
        )


def format_sampling_rate(result: Run) -> str:
    """ "1.25 images/s", of the run's images so far."""
    timings = result.record["timings"]
    seconds = timings.get("sampling_seconds", 0)
    images = timings.get("images_sampled", 0)
    return f"{images / seconds:.2f} images/s" if seconds else "not sampled here"


def draw_grid(result: Run) -> Image:
    """The first images, framed by whether they are right where a metric says so."""
    values: dict[str, dict[ImageKey, float]] = {}
    for row in result.scores:
        if row.value is not None:
            values.setdefault(row.metric, {})[row.key] = row.value
    right = next((of for of in values.values() if {*of.values()} <= {0, 1}), {})
    shown = result.images[:GRID_SIZE]
    marks = [right[row.key] == 1 if row.key in right else None for row in shown]
    pictures: Sequence[Image] = [open_image(result.folder / row.file) for row in shown]
    return sheets.compose_grid(pictures, [row.prompt for row in shown], marks)
