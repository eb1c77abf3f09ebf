"""A run is forecast to cost what the network is called for."""

from __future__ import annotations

import pytest

import asyndm
from asyndm.guidance import Cost
from experiments.engine.cost import forecast_run
from experiments.engine.plan import Plan, build_mask, make_plan
from experiments.engine.sampling import load_model, make_sample_arguments
from tests.experiments.engine.test_schema import compose_config
from tests.lab import Lab


def count_evaluations(plan: Plan) -> int:
    """Rows that the network is called with for all pictures of a run."""
    counted: dict[tuple[int, ...], int] = {}

    def keep(record: asyndm.StepRecord) -> None:
        counted[tuple(record.images)] = record.evaluations

    asyndm.sample(
        load_model(plan),
        [item.prompt.text for item in plan.items],
        [list(item.prompt.subjects) for item in plan.items],
        mask=build_mask(plan),
        seed=[item.seed for item in plan.items],
        callback=keep,
        **make_sample_arguments(plan),
    )
    return sum(counted.values())


@pytest.mark.parametrize("first", [1, 2, 4])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_a_rehearsal_of_some_steps_costs_these(lab: Lab, first: int, solver: str) -> None:
    """Of three steps two are guided, the last and the first, which the rehearsal takes, are not."""
    rehearsed = ["mask=things", "mask.threshold=1", f"mask.rehearsal_steps={first}"]
    guided = ["guidance=interval", "guidance.start=0.3", "guidance.stop=0.6", f"solver={solver}"]
    words = lab.arguments(*rehearsed, *guided, "num_inference_steps=3", "limit=1")
    plan = make_plan(compose_config(*words))
    once = {"ddim": [1, 2, 1], "heun": [2, 4, 1]}[solver]
    assert forecast_run(plan) == Cost(sum(once) + sum(once[:first]))
    if solver == "ddim":  # the other is for flow matching
        assert count_evaluations(plan) == forecast_run(plan).forward
    within = make_plan(compose_config(*words, "num_inference_steps=${steps_within:13}"))
    assert forecast_run(within).forward <= 13


@pytest.mark.parametrize("scale", [5, 1, "null"])
@pytest.mark.parametrize("mask", ["none", "dynamic", "static"])
def test_a_run_costs_what_was_forecast(lab: Lab, mask: str, scale: object) -> None:
    words = lab.arguments(f"mask={mask}", f"guidance.guidance_scale={scale}", "limit=2")
    plan = make_plan(compose_config(*words))
    steps = 2 * lab.steps * (1 + (mask == "static")) * (1 if scale == 1 else 2)
    assert forecast_run(plan) == Cost(steps) and count_evaluations(plan) == steps
