"""CFG-Zero* against diffusers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeZeroStarGuidance

from asyndm import Mask, UserError
from asyndm.guidance.base import Outputs
from asyndm.guidance.cfg_zero_star import CFGZeroStar
from asyndm.solvers import AB2, Euler
from tests.library.guidance.combining import (
    MASKS,
    check_cost,
    draw,
    draw_levels,
    make_moment,
    sample_latents,
    sample_tiny,
)
from tests.pipelines.registry import PIPELINES

NEUTRAL = CFGZeroStar(zero_steps=0, rescale=False)
SCALES: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": 4.0},
    "flux": {"guidance_scale": 3.5, "true_cfg_scale": 4.0, "negative_prompt": ""},
}


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {name: PIPELINES[name].build() for name in SCALES}


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SCALES)
def test_without_both_its_parts_it_is_cfg(
    pipes: dict[str, Any], name: str, eta: float, mask: Mask
) -> None:
    settings = {**SCALES[name], "mask": mask, "eta": eta}
    latents, records = sample_tiny(pipes[name], PIPELINES[name], NEUTRAL, **settings)
    assert torch.equal(latents, sample_tiny(pipes[name], PIPELINES[name], **settings)[0])
    arguments = {"true_cfg_scale": 4.0, "negative_prompt": ""} if name == "flux" else {}
    cost = NEUTRAL.cost(4, name != "flux", arguments)
    assert records[-1].evaluations == cost.forward == 8


@pytest.mark.parametrize("step", [1, 2, 3])
def test_its_velocity_is_that_of_diffusers_guider(step: int) -> None:
    oracle = ClassifierFreeZeroStarGuidance(guidance_scale=5.0, zero_init_steps=2)
    oracle.set_state(step - 1, 10, torch.tensor(0))
    u, c = (each.float() for each in draw((2, 30, 8), 2))
    level, _ = draw_levels((2, 30, 1), flow=True)
    moment = make_moment(level, prediction_type="flow_prediction", step=step)
    found = CFGZeroStar(zero_steps=2).combine(Outputs(u + 5 * (c - u), c, u), moment).output
    torch.testing.assert_close(found, oracle.forward(c, u).pred, rtol=1e-5, atol=1e-5)
    assert bool(found.any()) == (step == 3)


def test_first_steps_leave_x_as_it_is(pipes: dict[str, Any]) -> None:
    _, records = sample_tiny(
        pipes["sd3"], PIPELINES["sd3"], CFGZeroStar(zero_steps=2), **SCALES["sd3"]
    )
    first, second, third = (record.latents for record in records[:3])
    assert torch.equal(first, second) and not torch.equal(second, third)
    check_cost(CFGZeroStar(), records)


def test_a_solver_of_second_order_begins_behind_them(pipes: dict[str, Any]) -> None:
    guidance = CFGZeroStar(zero_steps=1)
    steps = {}
    for solver in (Euler(), AB2()):
        settings = {**SCALES["sd3"], "solver": solver}
        _, records = sample_tiny(pipes["sd3"], PIPELINES["sd3"], guidance, **settings)
        steps[solver.name] = [record.latents for record in records]
    same = [torch.equal(*pair) for pair in zip(steps["euler"], steps["ab2"], strict=True)]
    assert same == [True, True, False, False]


def test_what_makes_no_sense_is_refused(pipe: Any) -> None:
    for wrong in (-1, 1.5, None):
        with pytest.raises(UserError, match="guidance.zero_steps must be a whole number"):
            CFGZeroStar(zero_steps=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="guidance=cfg_zero_star is defined for flow matching"):
        sample_latents(pipe, CFGZeroStar())


def test_its_label_tells_what_is_not_the_usual() -> None:
    assert CFGZeroStar(4.5).label == "cfg_zero_star 4.5"
    assert CFGZeroStar(4.5, zero_steps=2).label == "cfg_zero_star zero_steps=2 4.5"
    assert NEUTRAL.label == "cfg_zero_star zero_steps=0 rescale=false"
