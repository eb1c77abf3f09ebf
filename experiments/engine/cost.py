"""What a sweep costs before it is made: runs, pictures and network evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.messages import count_things
from experiments.engine.guidance import count_evaluations
from experiments.engine.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Of different runs. An evaluation is one pass of the denoising network over one picture."""

    runs: int
    images: int
    evaluations: int

    def __str__(self) -> str:
        of = ((self.runs, "run"), (self.images, "image"), (self.evaluations, "network evaluation"))
        return ", ".join(count_things(number, thing) for number, thing in of)


def forecast_per_image(plan: Plan, negative_prompt: str | None = None) -> int:
    """Of the network, for a picture of the run; those of a mask that first needs a whole
    synchronous run among them.

    Args:
        negative_prompt: what its prompt has of its own: of it can depend whether the pipeline
            guides.
    """
    own = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
    guided = bool(plan.config["model"].get("guided", True))
    given = plan.identity["pipeline_arguments"] | own
    steps = int(plan.identity["num_inference_steps"])
    return steps * count_evaluations(plan.guidance, guided, given) * (1 + plan.mask.rehearses)


def forecast_evaluations(plan: Plan) -> int:
    """Of the network, for all images of a run."""
    if "negative_prompts" not in plan.identity:
        return plan.image_count * forecast_per_image(plan)
    each = sum(forecast_per_image(plan, prompt.negative_prompt) for prompt in plan.prompts)
    return each * int(plan.config["images_per_prompt"])


def estimate_cost(plans: Iterable[Plan]) -> Cost:
    """Of all of them together, each run once."""
    different = {plan.run_id: plan for plan in plans}.values()
    return Cost(
        len(different),
        sum(plan.image_count for plan in different),
        sum(forecast_evaluations(plan) for plan in different),
    )
