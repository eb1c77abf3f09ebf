"""Where results go beside the run's own files. A tracker may fail; a run does not fail with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from asyndm.errors import UserError, read_first_line
from evaluation.labels import count_evaluations
from evaluation.runs.folder import Run
from evaluation.runs.rows import ImageKey, ScoreRow
from experiments.engine.guidance import name_in_folders
from experiments.engine.plan import Plan

if TYPE_CHECKING:
    import wandb

SWEEP_VARIABLE = "ASYNDM_SWEEP"
"""Environment variable in which a sweep leaves its name for its jobs, wherever they run."""
Mode = Literal["offline", "online", "shared", "disabled"]
"""Where W&B writes to: files, its server, its server from many processes, nowhere."""
FORMER: dict[str, Mode] = {"dryrun": "offline", "run": "online"}
"""Names that W&B's modes had, and that ``WANDB_MODE`` may still have."""
LONGEST_TAG = 64
"""Characters of a tag that W&B takes."""


class Tracker:
    """Adds nothing to the files. A subclass is one class and one YAML in ``conf/tracker``."""

    def check(self) -> None:
        """Whether it can work, as far as that is known before anything is made.

        Raises:
            UserError: it cannot, with the setting that is wrong.
        """

    def remedy(self, error: BaseException) -> str:
        """What to do, in a few words, where it failed with this error."""
        return "the same command tells it again"

    def has(self, plan: Plan) -> bool:
        """Whether it was given this run before; a finished run that it was not given is told to
        it."""
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
    """Weights & Biases: config, metrics, a table of prompts, pictures and scores.

    What is None here is what W&B's own environment variables say (``WANDB_PROJECT``,
    ``WANDB_MODE``, ``WANDB_ENTITY``, ``WANDB_RUN_GROUP``, ``WANDB_TAGS``; also ``WANDB_NAME``,
    ``WANDB_DIR``, ``WANDB_DISABLED``).

    Args:
        project: its project; without any, asyndm.
        mode: "offline" (files in the run's folder, also without any), "online", "shared", or
            "disabled".
        entity: its team; without any, the account's own.
        group: the group; without any, the sweep's name.
        tags: without any, the names of model, method, curve and prompt set, and of a guidance and a
            solver that are not the usual ones.
        images: how many pictures are sent.
    """

    def __init__(
        self,
        project: str | None = None,
        mode: Mode | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        images: int = 16,
    ) -> None:
        self.project, self.entity, self.group = project, entity, group
        self.tags, self.images = tags, images
        self.given_mode = mode
        self.run: wandb.Run | None = None
        self.is_complete = False

    @property
    def mode(self) -> Mode:
        """The mode that holds.

        Raises:
            UserError: ``WANDB_MODE`` is none.
        """
        if self.given_mode is not None:
            return self.given_mode
        if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
            return "disabled"
        variable = os.environ.get("WANDB_MODE") or "offline"
        modes: dict[str, Mode] = FORMER | {mode: mode for mode in get_args(Mode)}
        if variable.lower() not in modes:
            raise UserError(f"WANDB_MODE={variable}: choose from {', '.join(get_args(Mode))}")
        return modes[variable.lower()]

    def check(self) -> None:
        _ = self.mode

    def remedy(self, error: BaseException) -> str:
        if isinstance(error, ImportError):
            return "pip install --group wandb, in the checkout"
        if isinstance(error, UserError) or self.mode == "offline":
            return super().remedy(error)
        return "tracker.mode=offline writes files for a later wandb sync"

    def has(self, plan: Plan) -> bool:
        return self.mode == "disabled" or self._mark(plan).exists()

    def _mark(self, plan: Plan) -> Path:
        """A file that says that all results were logged."""
        return plan.folder / "wandb" / f"complete-{self.mode}"

    def start(self, plan: Plan) -> None:
        if self.mode == "disabled":
            return
        import wandb

        variable = os.environ.get
        self.run = wandb.init(
            project=self.project or variable("WANDB_PROJECT") or "asyndm",
            entity=self.entity or variable("WANDB_ENTITY"),
            group=self.group or variable("WANDB_RUN_GROUP") or variable(SWEEP_VARIABLE),
            name=variable("WANDB_NAME") or plan.label,
            tags=self._tags(plan),
            id=plan.run_id,
            resume="allow",
            reinit="finish_previous",
            mode=self.mode,
            dir=variable("WANDB_DIR") or str(plan.folder),
            config={"run_id": plan.run_id, **plan.config, "identity": plan.identity},
            settings=wandb.Settings(init_timeout=30, silent=True, console="off"),
        )

    def _tags(self, plan: Plan) -> list[str]:
        if self.tags is not None:
            return list(self.tags)
        if words := os.environ.get("WANDB_TAGS"):
            return [tag for word in words.split(",") if (tag := word.strip())]
        names = [plan.config["model"]["name"], plan.mask.label, plan.config["prompt_set"]["name"]]
        names += [plan.curve.label] if plan.mask.bends else []
        names += filter(None, [name_in_folders(plan.guidance)])
        names += [plan.solver.label] if "solver" in plan.identity else []
        return [str(name)[:LONGEST_TAG] for name in dict.fromkeys(names)]

    def progress(self, images: int) -> None:
        if self.run is not None:
            self.run.log({"images": images})

    def finish(self, plan: Plan, run: Run, summary: Mapping[str, float]) -> None:
        if self.run is None:
            return
        import wandb

        shown = run.images[: self.images]
        pictures = [
            wandb.Image(str(run.folder / image.file), caption=image.prompt) for image in shown
        ]
        overviews = {path.stem: wandb.Image(str(path)) for path in sorted(run.folder.glob("*.png"))}
        table = _build_table(run, pictures)
        numbers = {**summary, **_average_rows(run)}
        self.run.log({**numbers, "scores": table, "samples": pictures, **overviews})
        self.run.summary.update(numbers)
        self._mark(plan).parent.mkdir(exist_ok=True)
        self._mark(plan).touch()
        self.is_complete = True

    def close(self) -> None:
        """Ends the W&B run: as failed, where it has not been told the results."""
        if self.run is not None:
            self.run.finish(exit_code=0 if self.is_complete else 1)
            self.run = None


def _average_rows(run: Run) -> dict[str, float]:
    """What an image cost, as tables have it: rows of the network, and those backward."""
    if (counted := count_evaluations(run)) is None:
        return {}
    rows, backward, images = counted
    return {"evaluations": rows / images, "backward": backward / images}


def _build_table(run: Run, pictures: Sequence[wandb.Image]) -> wandb.Table:
    """A row for each image, with its prompt and scores; with its picture, as far as there are
    pictures."""
    import wandb

    names = sorted({name for score in run.scores for name in score.numbers})
    scores: dict[ImageKey, list[ScoreRow]] = {}
    for score in run.scores:
        scores.setdefault(score.key, []).append(score)
    columns: list[str | int] = ["prompt_id", "prompt", "image", "kind", "image_index", "seed"]
    table = wandb.Table(columns=[*columns, *names, "reason"])
    for image, picture in zip_longest(run.images, pictures):
        own = sorted(scores.get(image.key, []), key=lambda score: score.metric)
        numbers = {name: number for score in own for name, number in score.numbers.items()}
        reason = "; ".join(score.reason for score in own if score.reason)
        row = (image.prompt_id, image.prompt, picture, image.kind, image.image_index, image.seed)
        table.add_data(*row, *map(numbers.get, names), reason)
    return table


class ForgivingTracker(Tracker):
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
            name, reason = type(self._tracker).__name__, read_first_line(error, "")
            if not isinstance(error, UserError):
                reason = f"{type(error).__name__}: {reason}"
            remedy = self._tracker.remedy(error)
            print(f"warning: {name} gave up ({reason}); the run goes on; {remedy}", file=sys.stderr)
            dropped, self._tracker = self._tracker, None
            if method != "close":
                with suppress(Exception, SystemExit):
                    dropped.close()
            return None
