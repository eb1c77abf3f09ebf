"""Guidance in a part of the steps: rows that are left out, and pictures that are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from asyndm import StepRecord, sample
from asyndm.errors import UserError
from asyndm.guidance.interval import Interval
from asyndm.masks import DynamicMask, Mask, NoMask
from asyndm.solvers import DDIM, Heun, Solver
from tests.pipelines.registry import PIPELINES

TRUE: dict[str, Any] = {"true_cfg_scale": 3.0, "negative_prompt": "a cat"}


def draw(pipe: Any, mask: Mask | None = None, **settings: Any) -> tuple[Tensor, list[StepRecord]]:
    """Latents of five steps, and the records of these."""
    records: list[StepRecord] = []
    own: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 4.0}
    own |= {"output_type": "latent", "callback": records.append, "mask": mask or NoMask()}
    made: Tensor = sample(pipe, "a red dog", ["dog"], **{**own, **settings})
    return made, records


def count_rows(records: list[StepRecord]) -> list[int]:
    """Of each step."""
    total = [0, *(record.evaluations for record in records)]
    return [after - before for before, after in zip(total, total[1:], strict=False)]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("mask", [NoMask(), DynamicMask()])
def test_all_steps_are_classifier_free_guidance_and_none_the_prompt_alone_to_the_bit(
    pipe: Any, mask: Mask, eta: float
) -> None:
    for guidance, scale in ((Interval(), 4.0), (Interval(stop=0.0), 1.0)):
        made, records = draw(pipe, mask, eta=eta, guidance=guidance)
        plain, _ = draw(pipe, mask, eta=eta, guidance_scale=scale)
        assert torch.equal(made, plain)
        assert count_rows(records) == [2 if scale > 1 else 1] * 5


@pytest.mark.parametrize("mask", [NoMask(), DynamicMask()])
def test_the_row_of_the_negative_prompt_is_evaluated_in_its_steps_alone(
    pipe: Any, mask: Mask
) -> None:
    """Steps 2 and 3 of five are from 0.2 to below 0.6 of the way."""
    guidance = Interval(4.0, start=0.2, stop=0.6)
    made, records = draw(pipe, mask, guidance=guidance)
    plain, before = draw(pipe, mask, guidance_scale=1.0)
    assert count_rows(records) == [1, 2, 2, 1, 1]
    assert records[-1].evaluations == guidance.cost(5).forward
    assert torch.equal(records[0].latents, before[0].latents)
    assert not torch.equal(records[1].latents, before[1].latents)
    assert (made - plain).abs().max() > 0.01


def test_a_step_is_classifier_free_inside_and_of_the_prompt_outside(pipe: Any) -> None:
    """As a callback that changes g does it from outside, with all rows."""

    def change(pipe: Any, step: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 4.0 if step + 1 in (1, 2) else 1 + 1e-12
        return {}

    made, _ = draw(pipe, guidance=Interval(start=0.2, stop=0.6))
    expected, _ = draw(pipe, guidance_scale=1 + 1e-12, callback_on_step_end=change)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", [DDIM(), Heun()])
def test_a_pipeline_of_two_calls_makes_both_and_uses_one(solver: Solver) -> None:
    flux = PIPELINES["flux"]
    size: dict[str, Any] = {
        "height": flux.size[0],
        "width": flux.size[1],
        **flux.arguments,
        "solver": solver,
    }
    pipe, guidance = flux.build(), Interval(start=0.4, stop=0.6)
    _, records = draw(pipe, guidance=guidance, **size, **TRUE)
    _, alone = draw(pipe, **size)
    assert torch.equal(records[1].latents, alone[1].latents)
    assert not torch.equal(records[2].latents, alone[2].latents)
    rows = [2] * 5 if solver.evaluations == 1 else [3, 3, 4, 3, 2]
    assert count_rows(records) == rows
    assert guidance.cost(5, False, TRUE, solver.evaluations).forward == sum(rows)


def test_a_batch_of_both_rows_costs_what_it_says_with_heun() -> None:
    sd3 = PIPELINES["sd3"]
    size: dict[str, Any] = {"height": sd3.size[0], "width": sd3.size[1], **sd3.arguments}
    guidance = Interval(start=0.2, stop=0.6)
    _, records = draw(sd3.build(), guidance=guidance, solver=Heun(), **size)
    assert count_rows(records) == [2, 4, 4, 2, 1]
    assert guidance.cost(5, evaluations=2).forward == 13


def test_a_pipeline_that_does_not_guide_is_refused(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"guidance=interval needs .* guidance_scale=1 leaves out"):
        draw(pipe, guidance=Interval(), guidance_scale=1.0)


def test_an_interval_is_a_part_of_the_steps() -> None:
    with pytest.raises(UserError, match="guidance.start=0.6 must not be above guidance.stop=0.2"):
        Interval(start=0.6, stop=0.2)
    with pytest.raises(UserError, match=r"guidance.start must be a number in \[0, 1\]"):
        Interval(start=-1.0)
    assert Interval(4.0, start=0.25).label == "interval 0.25-1 4"
