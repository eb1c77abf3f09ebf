"""What of a planned run is there already, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from asyndm.errors import UserError
from evaluation.metrics import Metric
from evaluation.pictures import Picture
from evaluation.runs.folder import GRID_FILE, STRIP_FILE, Run, RunFolder
from evaluation.runs.rows import ImageKey
from evaluation.scoring import says_all
from experiments.engine.plan import Item, Plan, make_metrics


class PlannedFolder(RunFolder):
    """The folder of a run, held against the plan of it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.folder)
        self.plan = plan

    @cached_property
    def _rank(self) -> dict[ImageKey, int]:
        # not before it is asked for: a sweep plans many runs that have no folder yet
        return {item.key: i for i, item in enumerate(self.plan.items)}

    @property
    def batch_size(self) -> int:
        """The one the run was begun with, else that of the settings."""
        size = self.record.get("batch_size") if self.has_record else None
        return int(size or self.plan.config["batch_size"])

    @property
    def batch_invariant(self) -> bool | None:
        """What the run was begun with, else what the settings say."""
        begun: bool | None = (self.record if self.has_record else self.plan.config).get(
            "batch_invariant"
        )
        return begun

    @property
    def own_items(self) -> list[Item]:
        """The images that this part of the run makes."""
        return [item for _, batch in self.plan.batches(self.batch_size) for item in batch]

    @property
    def pictures(self) -> list[Picture]:
        """All of the run's, to be scored."""
        return [
            Picture(self.path / item.file, item.prompt, item.image_index)
            for item in self.plan.items
        ]

    @property
    def wants_strip(self) -> bool:
        return self.plan.config["pictures"] > 0 and not self.is_whole(STRIP_FILE)

    def missing(self, items: Iterable[Item]) -> set[Item]:
        """Those whose pictures are not there, or not whole."""
        return {item for item in items if not self.is_whole(item.file)}

    def find(self) -> Run | None:
        """The run, if nothing of it or of the shard is left to do: no model is loaded to find out.
        What is damaged is left to be made anew.

        Raises:
            ForeignFile: as `refuse_foreign`.
        """
        self.refuse_foreign()
        if not self.is_run or not self.has_prompts(self.plan.prompts):
            return None
        try:
            run = self.read()
        except UserError:
            return None
        if run.state == "done" and not self.wants_strip:
            whole = self.is_whole(GRID_FILE) and self.is_made(run, self.plan.items)
            return run if whole else None
        if self.plan.shard is None:
            return None
        part = self.is_made(run, self.own_items) and not self.is_made(run, self.plan.items)
        return run if part else None

    def is_made(self, run: Run, items: Iterable[Item]) -> bool:
        """Whether these images are there, the ones that were listed, and scored."""
        wanted: dict[str, Metric] = make_metrics(self.plan)
        bases = run.record.get("metrics", {})
        if any(bases.get(name) != metric.basis for name, metric in wanted.items()):
            return False
        listed = {row.key: row for row in run.images}
        # what scores of earlier checkouts lack is added where it can be kept
        adds = self.is_writable
        scored = {
            row.place
            for row in run.scores
            if row.metric in wanted and (not adds or says_all(row, wanted[row.metric]))
        }
        made = all(
            (row := listed.get(item.key)) is not None
            and row.file == item.file
            and self.stamps.is_listed(row)
            and all((name, *item.key) in scored for name in wanted)
            for item in items
        )
        self.stamps.save()
        return made
