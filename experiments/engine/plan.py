"""From a composed config to a run: its prompts, its identity, its folder and its images. Nothing
heavy: to plan a run, or to find one that is made, imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from asyndm.curves import Curve
from asyndm.errors import UserError
from asyndm.masks import Mask
from asyndm.solvers import Solver
from evaluation.choices import build_metrics
from evaluation.labels import weigh_rows
from evaluation.metrics import Metric
from evaluation.runs.prompts import Prompt, PromptSet, SubjectChoice
from evaluation.runs.records import MASK_FACTS
from evaluation.runs.row_files import warn_once
from experiments.engine import schema
from experiments.engine.cost import forecast_mean
from experiments.engine.guidance import (
    GuidanceLike,
    build_guidance,
    name_guidance,
    name_in_folders,
)
from experiments.engine.hydra_messages import explain_unset
from experiments.engine.identity import (
    PromptList,
    build_choice,
    build_solver,
    drop_unread_negative_prompts,
    identify,
    identify_choice,
)
from experiments.engine.settings import check_settings, find_device
from experiments.engine.values import settle_values

CHANGED_MEANWHILE = "changed since this run was planned; give the same command again"


@dataclass(frozen=True)
class Item:
    """One image of a run."""

    prompt: Prompt
    image_index: int
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.prompt_id, self.image_index

    @property
    def name(self) -> str:
        """The file name of the picture, and of what is kept beside it."""
        return f"{self.prompt.prompt_id}_{self.image_index:03d}.png"

    @property
    def file(self) -> str:
        """Where the picture lies, relative to the run's folder."""
        return f"images/{self.name}"


@dataclass(frozen=True)
class Plan:
    """A run before it is made. `config` is what was asked, `identity` what it comes to;
    `without_effect` is where the negative prompts are from that nothing reads, if there are any."""

    config: dict[str, Any]
    prompts: tuple[Prompt, ...]
    identity: dict[str, Any]
    without_effect: str = ""

    @cached_property
    def run_id(self) -> str:
        """The hash of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def output_dir(self) -> Path:
        return Path(self.config["output_dir"]).expanduser().resolve()

    @property
    def device(self) -> str:
        return find_device(self.config)

    @cached_property
    def mask(self) -> Mask:
        """Its mask. One made of a file holds the path: `build_mask` reads it."""
        known = self.identity["mask"]
        choice = self.config["mask"] if "sha256" in known else known
        return build_choice("mask", choice, Mask)  # type: ignore[type-abstract]

    @cached_property
    def curve(self) -> Curve:
        return build_choice("curve", self.identity["curve"], Curve)  # type: ignore[type-abstract]

    @cached_property
    def guidance(self) -> GuidanceLike:
        return build_guidance(self.identity["guidance"])

    @cached_property
    def solver(self) -> Solver:
        return build_solver(self.identity.get("solver", {"_target_": schema.Solver._target_}))

    @property
    def choices(self) -> dict[str, dict[str, str | bool | float]]:
        """What its choices say of themselves, for those who read its record without them; of the
        guidance also what a picture of the run is forecast to cost with it."""
        mask = self.mask
        return {
            "mask": {"label": mask.label, **{name: getattr(mask, name) for name in MASK_FACTS}},
            "curve": {"label": self.curve.label},
            "guidance": {
                "label": name_guidance(self.guidance, self.identity["guidance"]),
                **asdict(forecast_mean(self)),
            },
            "solver": {"label": self.solver.label},
        }

    @property
    def label(self) -> str:
        """The run in a few words: "shapes-AsynDM-quadratic-0.5-20"; a guidance and a solver are
        named that are not the usual ones."""
        words = [self.config["model"]["name"], self.mask.label]
        if self.mask.bends:
            words += [self.curve.label, f"{self.curve.concavity:g}"]
        words += filter(None, [name_in_folders(self.guidance)])
        if "solver" in self.identity:
            words += [self.solver.label]
        words += [str(self.identity["num_inference_steps"])]
        return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))

    @cached_property
    def folder(self) -> Path:
        """The run's folder: a readable name of its own, else wherever its hash already is."""
        folder = self.output_dir / f"{self.label}-{self.run_id}"
        if folder.is_dir():
            return folder
        return next(iter(find_folders(self.output_dir, self.run_id)), folder)

    @property
    def image_count(self) -> int:
        """How many images it has; `items` lists them."""
        return len(self.prompts) * int(self.config["images_per_prompt"])

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All images, prompt by prompt."""
        first, own = self.config["seed"], self.config["noise"] == schema.Noise.own.name
        starts = [
            first + own * derive_seed(prompt.text) if prompt.seed is None else prompt.seed
            for prompt in self.prompts
        ]
        return tuple(
            Item(prompt, index, (start + index) % 2**63)
            for prompt, start in zip(self.prompts, starts, strict=True)
            for index in range(self.config["images_per_prompt"])
        )

    @cached_property
    def shard(self) -> tuple[int, int] | None:
        """Number and count, of a part of the run; None: all of it."""
        if self.config["shard"] is None:
            return None
        number, _, count = self.config["shard"].partition("/")
        return int(number), int(count)

    def batches(self, size: int) -> list[tuple[int, tuple[Item, ...]]]:
        """The batches that this part of the run makes, with their numbers: of shard k of n every
        n-th, from the k-th.

        A shard makes whole batches: so its pictures are the same to the bit as those of the run in
        one.
        """
        number, count = self.shard or (1, 1)
        starts = range(0, len(self.items), size)
        return [
            (i, self.items[start : start + size])
            for i, start in enumerate(starts)
            if i % count == number - 1
        ]


def derive_seed(text: str) -> int:
    """A number below 2^32 for each text: prompts that begin with other noise say how much of a
    result is luck."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def find_folders(output_dir: Path, run_id: str) -> list[Path]:
    """The folders there that carry a run's hash."""
    return sorted(output_dir.glob(f"*-{run_id}")) if output_dir.is_dir() else []


Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], PromptList]
"""From the choices of prompt set and subjects to their prompts."""


def make_plan(config: DictConfig, read: Reader | None = None) -> Plan:
    """Checks the settings, reads the prompts and works out which run it is.

    Args:
        config: without Hydra's part.
        read: reads prompts; None: `read_prompts`.

    Raises:
        UserError: a setting out of its range or missing, a bad prompt, a missing file.
    """
    try:
        resolved: Any = OmegaConf.to_container(
            config, resolve=True, throw_on_missing=True, enum_to_str=True
        )
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(": ")[2]
        raise UserError(f"{key} is missing: give {key}=...") from error
    except InterpolationResolutionError as error:
        raise UserError(explain_unset(error)) from error
    check_settings(resolved)
    for group in ("guidance", "solver"):
        resolved[group] = settle_values(group, resolved[group])
    prompts = (read or read_prompts)(resolved["prompt_set"], resolved["subjects"])
    prompts, without_effect = drop_unread_negative_prompts(resolved, prompts)
    plan = Plan(resolved, prompts.prompts, identify(resolved, prompts), without_effect)
    _warn_of_cost(config, plan)
    return plan


def _warn_of_cost(config: DictConfig, plan: Plan) -> None:
    """Warns where ``${steps_within:40}``, which knows of no prompt, is not kept, as prompts have
    negative ones of their own."""
    if "negative_prompts" not in plan.identity:
        return
    asked = OmegaConf.to_container(OmegaConf.masked_copy(config, "num_inference_steps"))
    budget = re.search(r"\$\{steps_within:\s*([\d.eE+]+)\s*\}", str(asked))
    if budget is None:
        return
    cost = forecast_mean(plan)
    if (weight := weigh_rows(cost.forward, cost.backward)) > float(budget[1]):
        warn_once(
            f"num_inference_steps={budget[0]}: a picture is forecast to cost {weight:g} rows, as "
            "prompts have negative prompts of their own: give as many steps as fit"
        )


def build_mask(plan: Plan) -> Mask:
    """The mask to sample with: one made of a file is read.

    Raises:
        UserError: the file cannot be read, or has changed since the run was planned.
    """
    if "sha256" not in plan.identity["mask"]:
        return plan.mask
    choice = plan.config["mask"]
    mask = plan.mask.select(range(1), 1)
    # Only after reading: what was read is then what the run is known by.
    if identify_choice("mask", choice) != plan.identity["mask"]:
        raise UserError(f"mask.image={choice['image']}: {CHANGED_MEANWHILE}")
    return mask


def make_metrics(plan: Plan) -> dict[str, Metric]:
    """The metrics asked for, by their name in the scores."""
    return build_metrics(plan.config["metric"])


def read_prompts(choice: Mapping[str, Any], subjects: Mapping[str, Any]) -> PromptList:
    """The prompts of a set, each with the subjects chosen for it.

    Raises:
        UserError: a bad prompt, a missing file.
    """
    prompt_set = build_choice("prompt_set", choice, PromptSet)  # type: ignore[type-abstract]
    try:
        prompts = prompt_set.load()
    except UserError as error:
        raise UserError(f"prompt_set: {error}") from error
    chosen = build_choice("subjects", subjects, SubjectChoice)
    try:
        return PromptList(tuple(map(chosen.choose, prompts)))
    except UserError as error:
        raise UserError(f"subjects: {error}") from error
