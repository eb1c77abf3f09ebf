"""What a sweep costs before it is made: runs, pictures and network evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.guidance import Cost
from evaluation.messages import count_things
from experiments.engine.guidance import forecast_rows

if TYPE_CHECKING:
    from experiments.engine.plan import Plan


@dataclass(frozen=True)
class SweepCost:
    """Of different runs; `rows` are those of all their pictures."""

    runs: int
    images: int
    rows: Cost

    def __str__(self) -> str:
        of = ((self.runs, "run"), (self.images, "image"))
        things = [count_things(number, thing) for number, thing in of]
        return ", ".join([*things, describe_rows(self.rows)])


def describe_rows(rows: Cost) -> str:
    """ "12 network evaluations", "at most 120 network evaluations and 25 backward". One is a pass
    of the denoising network over one picture."""
    bound = "" if rows.exact else "at most "
    forward = count_things(math.ceil(rows.forward), "network evaluation")
    backward = f" and {math.ceil(rows.backward):,} backward" if rows.backward else ""
    return f"{bound}{forward}{backward}"


def forecast_per_image(plan: Plan, negative_prompt: str | None = None) -> Cost:
    """Rows of the network for a picture of the run; those of a mask that first needs a
    synchronous run, or steps of one, among them.

    Args:
        negative_prompt: what its prompt has of its own: of it can depend whether the pipeline
            guides.
    """
    own = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
    guided = bool(plan.config["model"].get("guided", True))
    given = plan.identity["pipeline_arguments"] | own
    steps = int(plan.identity["num_inference_steps"])
    return forecast_rows(plan.guidance, plan.mask, steps, guided, given, plan.solver.evaluations)


def forecast_run(plan: Plan) -> Cost:
    """Rows of the network for all images of a run."""
    if "negative_prompts" not in plan.identity:
        return forecast_per_image(plan) * plan.image_count
    rows = Cost(0.0)
    for prompt in plan.prompts:
        rows += forecast_per_image(plan, prompt.negative_prompt)
    return rows * int(plan.config["images_per_prompt"])


def forecast_mean(plan: Plan) -> Cost:
    """Rows of the network for an image of a run, where these differ their mean."""
    rows, images = forecast_run(plan), plan.image_count
    return Cost(rows.forward / images, rows.backward / images, rows.exact)


def estimate_cost(plans: Iterable[Plan]) -> SweepCost:
    """Of all of them together, each run once."""
    different = {plan.run_id: plan for plan in plans}.values()
    rows = Cost(0.0)
    for plan in different:
        rows += forecast_run(plan)
    return SweepCost(len(different), sum(plan.image_count for plan in different), rows)
