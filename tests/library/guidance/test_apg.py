"""Adaptive projected guidance against diffusers' own, given x₀ and not noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance
from torch import Tensor

import asyndm
from asyndm import Mask, UserError
from asyndm.guidance.apg import APG, project
from asyndm.guidance.base import Outputs
from asyndm.steps import Prediction
from tests.library.guidance.combining import (
    MASKS,
    TYPES,
    check_cost,
    draw,
    draw_levels,
    make_moment,
    sample_latents,
    sample_tiny,
)
from tests.pipelines.registry import PIPELINES

NEUTRAL = APG(parallel=1.0, rho=None, momentum=0.0)
SHAPE = (2, 4, 5, 6)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_all_kept_it_is_cfg(pipe: Any, mask: Mask, eta: float) -> None:
    latents, records = sample_latents(pipe, NEUTRAL, mask=mask, eta=eta)
    assert torch.equal(latents, sample_latents(pipe, mask=mask, eta=eta)[0])
    check_cost(NEUTRAL, records)


@pytest.mark.parametrize("momentum", [0.0, -0.5])
@pytest.mark.parametrize("rho", [0.3, None])
@pytest.mark.parametrize("prediction_type", TYPES)
def test_its_x0_is_that_of_diffusers_guider(
    prediction_type: str, rho: float | None, momentum: float
) -> None:
    guidance = APG(parallel=0.3, rho=rho, momentum=momentum)
    oracle = AdaptiveProjectedGuidance(
        guidance_scale=4.0,
        adaptive_projected_guidance_momentum=momentum or None,
        adaptive_projected_guidance_rescale=0.0 if rho is None else rho * (4 * 5 * 6) ** 0.5,
        eta=0.3,
        use_original_formulation=True,
    )
    oracle.set_state(0, 10, torch.tensor(0))
    oracle.prepare_inputs({})  # which makes its momentum buffer
    prediction, state = Prediction(prediction_type), dict[str, Any]()
    for number in range(3):
        level, _ = draw_levels((2, 1, 5, 6), prediction_type == "flow_prediction", number)
        x, u, c = draw(SHAPE, 3, number)
        moment = make_moment(level, prediction_type=prediction_type, state=state)
        combined = Outputs(u + 5.0 * (c - u), c, u, x=x)
        output = guidance.combine(combined, moment).output
        with_prompt, without = (prediction(x, each, level)[0] for each in (c, u))
        expected = oracle.forward(with_prompt, without).pred
        found = prediction(x, output, level)[0]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_each_image_is_cut_by_its_own_norm() -> None:
    x, u, c = draw(SHAPE, 3)
    level, _ = draw_levels((2, 1, 5, 6), flow=False)
    guidance = APG(rho=0.1, momentum=0.0)

    def combine(part: slice) -> Tensor:
        moment = make_moment(type(level)(*(each[part] for each in level)))
        guided, cond, uncond = (each[part] for each in (u + 5 * (c - u), c, u))
        return guidance.combine(Outputs(guided, cond, uncond, x=x[part]), moment).output

    alone = torch.cat([combine(slice(0, 1)), combine(slice(1, 2))])
    torch.testing.assert_close(combine(slice(0, 2)), alone, rtol=1e-12, atol=1e-12)


def test_projection_of_nothing_is_nothing() -> None:
    (d,) = draw(SHAPE, 1)
    assert not project(d, torch.zeros_like(d)).any()
    torch.testing.assert_close(project(d, -2 * d), d)


def test_a_run_begins_without_momentum(pipe: Any) -> None:
    def run() -> Tensor:
        seeded, steps = torch.Generator().manual_seed(3), {"num_inference_steps": 3}
        latents: Tensor = pipe("a cat", generator=seeded, output_type="latent", **steps).images
        return latents

    with asyndm.asynchronous(pipe, "a cat", ["cat"], guidance=APG(momentum=-0.75)):
        first, second = run(), run()
    assert torch.equal(first, second)
    with asyndm.asynchronous(pipe, "a cat", ["cat"], guidance=APG(momentum=0.0)):
        assert not torch.equal(first, run())


def test_sd3_and_flux_with_all_kept_are_as_stock() -> None:
    for name, scales in (
        ("sd3", {"guidance_scale": 4.0}),
        ("flux", {"guidance_scale": 3.5, "true_cfg_scale": 4.0, "negative_prompt": ""}),
    ):
        tiny = PIPELINES[name]
        pipe = tiny.build()
        latents, records = sample_tiny(pipe, tiny, NEUTRAL, **scales)
        assert torch.equal(latents, sample_tiny(pipe, tiny, **scales)[0])
        assert records[-1].evaluations == 8
        guided, _ = sample_tiny(pipe, tiny, APG(), **scales)
        assert torch.isfinite(guided).all() and not torch.equal(guided, latents)


def test_what_makes_no_sense_is_refused(pipe: Any) -> None:
    for settings in ({"rho": -1.0}, {"parallel": None}, {"momentum": float("nan")}):
        with pytest.raises(UserError, match=f"guidance.{next(iter(settings))} must be a finite"):
            APG(**settings)
    with pytest.raises(UserError, match="guidance=apg .*give more than 1"):
        sample_latents(pipe, APG(), guidance_scale=1.0)


def test_its_label_tells_what_is_not_the_usual() -> None:
    assert APG(15.0).label == "apg 15"
    assert APG(7.0, rho=None, momentum=-0.75).label == "apg rho=null momentum=-0.75 7"
