"""Where results go beside the run's own files. A tracker may fail; a run does not fail with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from asyndm.errors import first_line
from evaluation.results import Run
from experiments.plan import Plan

SWEEP_VARIABLE = "ASYNDM_SWEEP"
"""Environment variable in which a sweep leaves its name for its jobs, wherever they run."""


class Tracker:
    """Adds nothing to the files. A subclass is one class and one YAML in ``conf/tracker``."""

    def has(self, plan: Plan) -> bool:
        """Whether it was given this run before; a finished run that it was not given is told to it."""
        return False

    def start(self, plan: Plan) -> None:
        """The run begins."""

    def progress(self, images: int) -> None:
        """So many images are there."""

    def finish(self, plan: Plan, run: Run, summary: Mapping[str, float]) -> None:
        """The run is complete."""

    def close(self) -> None:
        """The run ended, one way or the other."""


class WandbTracker(Tracker):
    """Weights & Biases: config, metrics, a table of prompts and scores, and pictures.

    Args:
        project: its project.
        mode: "offline" (files in the run's folder) or "online".
        entity: its team; None: the account's own.
        group: the group; None: the sweep's name.
        images: how many pictures are sent.
    """

    def __init__(
        self,
        project: str = "asyndm",
        mode: Literal["offline", "online"] = "offline",
        entity: str | None = None,
        group: str | None = None,
        images: int = 16,
    ) -> None:
        self.project, self.mode, self.entity, self.group, self.images = project, mode, entity, group, images
        self.run: Any = None
        self.told = False

    def has(self, plan: Plan) -> bool:
        return self._mark(plan).exists()

    def _mark(self, plan: Plan) -> Path:
        """A file that says that all results were logged."""
        return plan.folder / "wandb" / f"complete-{self.mode}"

    def start(self, plan: Plan) -> None:
        import wandb

        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or os.environ.get(SWEEP_VARIABLE),
            name=plan.label,
            id=plan.run_id,
            resume="allow",
            reinit="finish_previous",
            mode=self.mode,
            dir=str(plan.folder),
            config={"run_id": plan.run_id, **plan.config, "identity": plan.identity},
            settings=wandb.Settings(init_timeout=30, silent=True, console="off"),
        )

    def progress(self, images: int) -> None:
        self.run.log({"images": images})

    def finish(self, plan: Plan, run: Run, summary: Mapping[str, float]) -> None:
        import wandb

        names = sorted({score.metric for score in run.scores})
        scores = {(*score.key, score.metric): score for score in run.scores}
        table = wandb.Table(columns=["prompt_id", "prompt", "kind", "image_index", "seed", *names, "reason"])
        for image in run.images:
            found = [scores.get((*image.key, name)) for name in names]
            values = [score.value if score else None for score in found]
            reason = "; ".join(score.reason for score in found if score and score.reason)
            table.add_data(
                image.prompt_id, image.prompt, image.kind, image.image_index, image.seed, *values, reason
            )
        shown = run.images[: self.images]
        pictures = [wandb.Image(str(run.folder / image.file), caption=image.prompt) for image in shown]
        overviews = {path.stem: wandb.Image(str(path)) for path in sorted(run.folder.glob("*.png"))}
        self.run.log({**summary, "scores": table, "samples": pictures, **overviews})
        self.run.summary.update(dict(summary))
        self._mark(plan).touch()
        self.told = True

    def close(self) -> None:
        """Ends the W&B run: as failed, where it has not been told the results."""
        if self.run is not None:
            self.run.finish(exit_code=0 if self.told else 1)
            self.run = None


class Forgiving(Tracker):
    """Another tracker, dropped with one line of warning the first time it fails."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def has(self, plan: Plan) -> bool:
        return bool(self._try("has", plan))

    def start(self, plan: Plan) -> None:
        self._try("start", plan)

    def progress(self, images: int) -> None:
        self._try("progress", images)

    def finish(self, plan: Plan, run: Run, summary: Mapping[str, float]) -> None:
        self._try("finish", plan, run, summary)

    def close(self) -> None:
        self._try("close")

    def _try(self, method: str, *arguments: Any) -> Any:
        if self._tracker is None:
            return None
        try:
            return getattr(self._tracker, method)(*arguments)
        except (Exception, SystemExit) as error:
            name, reason = type(self._tracker).__name__, first_line(error, "")
            print(
                f"warning: {name} gave up ({type(error).__name__}: {reason}); the run goes on",
                file=sys.stderr,
            )
            dropped, self._tracker = self._tracker, None
            if method != "close":
                with suppress(Exception, SystemExit):
                    dropped.close()
            return None
