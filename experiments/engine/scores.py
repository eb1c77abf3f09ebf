"""The scores of a run: of all pictures once they are there, or on a GPU of each batch while the
next is sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from evaluation.memory import Room
from evaluation.metrics import Metric
from evaluation.runs.locks import hold_tables
from evaluation.scoring import add_missing
from experiments.engine.at_hand import release_metrics, take_metrics
from experiments.engine.behind import Behind
from experiments.engine.folder import PlannedFolder
from experiments.engine.heartbeat import Heartbeat
from experiments.engine.plan import make_metrics
from experiments.engine.record import add_to_record, use_threads_as_begun

DELAY = 2.0
"""Seconds of scoring before it has a progress bar."""


class Scorer:
    """Scores what of this part of a run has no score yet, or one on another basis (version,
    convention, model) of its metric.

    The pictures are read from their files: a score is of what was kept. The networks stay loaded
    for the next run of this process.
    """

    def __init__(self, folder: PlannedFolder) -> None:
        self.folder = folder
        self.metrics = take_metrics(make_metrics(folder.plan))
        self._rooms = {
            name: Room(len(folder.plan.items), partial(self._make_room, metric))
            for name, metric in self.metrics.items()
        }
        self._seconds = 0.0
        self._thread: Behind | None = None
        self._is_beside = False
        """Whether the thread, where there is one, still scores beside the sampling."""

    def score_all(self, heartbeat: Heartbeat) -> None:
        """Scores all that has none yet, metric by metric."""
        own = {number for number, _ in self.folder.plan.batches(self.folder.batch_size)}
        for name, metric in self.metrics.items():
            heartbeat.tell(phase=f"scoring {name}")
            self._settle_basis(metric)
            with use_threads_as_begun(self.folder):
                self._score(metric, own.__contains__, DELAY)
        add_to_record(self.folder, scoring_seconds=self._seconds)
        self._seconds = 0.0

    @contextmanager
    def score_beside(self, wanted: bool) -> Iterator[Callable[[int], None]]:
        """Scores batches in a thread, on a stream of the GPU's own, in the order they are given.

        What fails is left to `score_all`, which tells of it once all pictures are there; what is
        not done on leaving is left to it as well. While this goes on no one else may change the
        table of scores.

        Args:
            wanted: False: nothing is done.

        Yields:
            What is to be called with the number of each batch whose pictures are there.
        """
        if not wanted:
            yield lambda number: None
            return
        for metric in self.metrics.values():
            self._settle_basis(metric)
        stream = _open_stream()
        with Behind() as thread:
            self._thread, self._is_beside = thread, True
            try:
                yield lambda number: thread.give(partial(self._score_batch, number, stream))
            finally:
                self._thread, self._is_beside = None, False

    def give_way(self) -> bool:
        """Lets go of the networks, and scores no further batch beside the sampling: its memory is
        short.

        Returns:
            whether there was anything to let go of.
        """
        self._is_beside = False
        if self._thread is not None:
            self._thread.wait()
        return release_metrics()

    def _make_room(self, metric: Metric) -> bool:
        """The same for one of them, which is to stay. What is left beside the sampling is left to
        `score_all`: batch by batch, each network would be loaded again for each."""
        self._is_beside = False
        return release_metrics(but=metric)

    def _score_batch(self, number: int, stream: AbstractContextManager[object]) -> None:
        try:
            with stream:
                for metric in self.metrics.values():
                    if not self._is_beside:
                        return
                    self._score(metric, {number}.__contains__, math.inf)
        except Exception:  # whatever it is, `score_all` meets it again
            self._is_beside = False

    def _settle_basis(self, metric: Metric) -> None:
        """Drops scores on another basis than the metric's, and notes that."""
        folder, name = self.folder, metric.name
        with hold_tables(folder.path):
            folder.scores.refresh()
            if folder.bases.get(name) != metric.basis:
                rows = folder.scores.rows.items()
                folder.scores.drop({place for place, row in rows if row.metric == name})
                folder.note_basis(name, metric.basis)

    def _score(self, metric: Metric, mine: Callable[[int], bool], delay: float) -> None:
        folder, started = self.folder, time.perf_counter()
        try:
            add_missing(
                folder.scores,
                metric,
                folder.pictures,
                folder.plan.run_id,
                folder.batch_size,
                mine,
                delay,
                self._rooms[metric.name],
            )
        finally:
            self._seconds += time.perf_counter() - started


def _open_stream() -> AbstractContextManager[object]:
    """A stream beside the current one, on the same GPU, which other threads do not know of."""
    import torch

    if not torch.cuda.is_available():
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(torch.cuda.current_device()))
