"""What a sweep costs before it is made: runs, pictures and network evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.messages import counted
from experiments.engine.guidance import sampler_arguments
from experiments.engine.plan import STATIC_MASK, Plan


@dataclass(frozen=True)
class Cost:
    """Of different runs. An evaluation is one pass of the denoising network over one picture."""

    runs: int
    images: int
    evaluations: int

    def __str__(self) -> str:
        of = ((self.runs, "run"), (self.images, "image"), (self.evaluations, "network evaluation"))
        return ", ".join(counted(number, thing) for number, thing in of)


def evaluations_per_image(plan: Plan) -> int:
    """N, twice that with guidance, and twice that for the static mask, which rehearses with a
    complete DM run."""
    guidance, own = (
        sampler_arguments(plan.identity["guidance"]),
        plan.identity["pipeline_arguments"],
    )
    scale = (
        guidance.get("guidance_scale")
        if plan.config["model"].get("guided", True)
        else own.get("true_cfg_scale")
    )
    guided = (scale or 0) > 1
    rehearsed = plan.identity["mask"]["_target_"] == STATIC_MASK
    return int(plan.identity["num_inference_steps"]) * (1 + guided) * (1 + rehearsed)


def evaluations(plan: Plan) -> int:
    """Of the network, for all images of a run."""
    return plan.image_count * evaluations_per_image(plan)


def cost(plans: Iterable[Plan]) -> Cost:
    """Of all of them together, each run once."""
    different = {plan.run_id: plan for plan in plans}.values()
    return Cost(
        len(different),
        sum(plan.image_count for plan in different),
        sum(evaluations(plan) for plan in different),
    )
