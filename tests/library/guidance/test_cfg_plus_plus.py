"""CFG++ against the guidance whose scale map it is, and against what it must leave alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from asyndm import Mask, NoMask, UserError
from asyndm.guidance.base import Guidance, Guided, Outputs
from asyndm.guidance.cfg_plus_plus import CFGPlusPlus
from asyndm.guidance.moment import Moment, Place
from asyndm.ladder import Level
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.steps import Move, Prediction
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

SHAPE = (2, 4, 5, 6)
ALIKE = 2e-6
"""A run by another formula: largest difference over the largest latent (4e-7 measured)."""


def compute_scale_map(level_t: Level, level_s: Level, eta: float, scale: float) -> Tensor:
    """g of plain guidance, from h alone."""
    h = (level_s.alpha / level_s.sigma).log() - (level_t.alpha / level_t.sigma).log()
    left = torch.exp(-2 * h)
    return scale / (1 - (left * (1 - eta**2 * (1 - left))).sqrt())


def step(x: Tensor, guided: Guided, z: Tensor, move: Move) -> Tensor:
    """DDIM of ε as its paper writes it."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = move.level_t, move.level_s
    v = (move.eta * sigma_s / sigma_t) ** 2 * (1 - (alpha_t / alpha_s) ** 2)
    renoise = guided.output if guided.renoise is None else guided.renoise
    x0 = (x - sigma_t * guided.output) / alpha_t
    return alpha_s * x0 + (sigma_s**2 - v).sqrt() * renoise + v.sqrt() * z


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("matched", [False, True])
def test_where_the_noise_is_guided_alike_it_is_cfg(
    pipe: Any, mask: Mask, eta: float, matched: bool
) -> None:
    neutral = CFGPlusPlus(scale=5.0, renoise_scale=5.0, matched=matched)
    latents, records = sample_latents(pipe, neutral, mask=mask, eta=eta)
    assert torch.equal(latents, sample_latents(pipe, mask=mask, eta=eta)[0])
    check_cost(neutral, records)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_it_is_cfg_with_a_scale_of_each_pixel_and_parked_pixels_stay(eta: float) -> None:
    x, u, c, z = draw(SHAPE, 4)
    level_t, level_s = draw_levels((2, 1, 5, 6), flow=False)
    guided = CFGPlusPlus(scale=0.6).combine(Outputs(c, c, u), make_moment(level_t, level_s))
    g = compute_scale_map(level_t, level_s, eta, 0.6)
    move = Move(level_t, level_s, eta, z)
    goes = move.changes.expand(SHAPE)
    expected = step(x, Guided(u + g * (c - u)), z, move)
    torch.testing.assert_close(
        step(x, guided, z, move)[goes], expected[goes], rtol=1e-12, atol=1e-11
    )
    moved = move.step(x, guided)[0]
    torch.testing.assert_close(moved[goes], expected[goes], rtol=1e-5, atol=1e-5)
    assert torch.equal(moved[~goes], x[~goes]) and bool((~goes).any())


def test_of_a_flow_it_is_the_same_with_its_own_levels() -> None:
    x, u, c = draw(SHAPE, 3)
    level_t, level_s = draw_levels((2, 1, 5, 6), flow=True)
    moment = make_moment(level_t, level_s, prediction_type="flow_prediction")
    guided = CFGPlusPlus(scale=0.6).combine(Outputs(c, c, u), moment)
    move = Move(level_t, level_s, prediction=Prediction("flow_prediction"))
    x0, without = (x - level_t.sigma * v for v in (u + 0.6 * (c - u), u))
    noise = (x - level_t.alpha * without) / level_t.sigma
    expected = level_s.alpha * x0 + level_s.sigma * noise
    g = compute_scale_map(level_t, level_s, 0.0, 0.6)
    plain = x + (level_s.sigma - level_t.sigma) * (u + g * (c - u))
    moved, goes = move.step(x, guided)[0], move.changes.expand(SHAPE)
    for other in (expected, plain):
        torch.testing.assert_close(moved[goes], other[goes], rtol=1e-12, atol=1e-11)
    assert torch.equal(moved[~goes], x[~goes])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("renoise_scale", [0.0, 0.2])
def test_matched_it_guides_every_pixel_as_one_on_the_straight_line(
    eta: float, renoise_scale: float
) -> None:
    x, u, c, z = draw(SHAPE, 4)
    level_t, level_s = draw_levels((2, 1, 5, 6), flow=False)
    line_t, line_s = (Level(*torch.tensor([a, (1 - a**2) ** 0.5]).double()) for a in (0.4, 0.6))
    places = tuple(Place(torch.zeros(1), level) for level in (line_t, line_s))
    rest = CFGPlusPlus(scale=0.6, renoise_scale=renoise_scale, matched=True)
    moment = make_moment(level_t, level_s, _run=SimpleNamespace(line=places, eta=eta))
    guided = rest.combine(Outputs(c, c, u), moment)
    q = 1 - 1 / compute_scale_map(line_t, line_s, eta, 1.0)
    g = (0.6 - renoise_scale * q) / (1 - q)
    move = Move(level_t, level_s, eta, z)
    goes = move.changes.expand(SHAPE)
    expected = step(x, Guided(u + g * (c - u)), z, move)
    found = step(x, guided, z, move)
    torch.testing.assert_close(found[goes], expected[goes], rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class OnTheLine(Guidance):
    """Plain guidance as strong as CFG++ is in each step of the synchronous method, from the
    scheduler's own table."""

    scale: float = 0.6
    eta: float = 0.0
    needs_uncond = True

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        scheduler = DDIMScheduler(**SD_SCHEDULER)
        scheduler.set_timesteps(moment.steps)
        alphas = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
        a, s = [*alphas, float(scheduler.final_alpha_cumprod)][moment.step - 1 : moment.step + 1]
        left = a / s * (1 - s) / (1 - a)
        g = self.scale / (1 - (left * (1 - self.eta**2 * (1 - left))) ** 0.5)
        assert outputs.uncond is not None
        return Guided(outputs.uncond + g * outputs.difference)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_matched_runs_are_those_of_one_scale_a_step(pipe: Any, mask: Mask, eta: float) -> None:
    matched, _ = sample_latents(pipe, CFGPlusPlus(matched=True), mask=mask, eta=eta)
    plain, _ = sample_latents(pipe, OnTheLine(eta=eta), mask=mask, eta=eta)
    assert float((matched - plain).abs().max() / plain.abs().max()) < ALIKE
    other, _ = sample_latents(pipe, CFGPlusPlus(), mask=mask, eta=eta)
    assert torch.equal(matched, other) == isinstance(mask, NoMask)


def test_the_pipelines_own_scale_is_without_effect(pipe: Any) -> None:
    one, records = sample_latents(pipe, CFGPlusPlus(), guidance_scale=2.0)
    assert torch.equal(one, sample_latents(pipe, CFGPlusPlus(), guidance_scale=7.0)[0])
    check_cost(CFGPlusPlus(), records)


def test_flux_and_sd3_with_it_guided_alike_are_as_stock() -> None:
    for name, scales in (
        ("sd3", {"guidance_scale": 4.0}),
        ("flux", {"guidance_scale": 3.5, "true_cfg_scale": 4.0, "negative_prompt": ""}),
    ):
        tiny = PIPELINES[name]
        pipe = tiny.build()
        neutral = CFGPlusPlus(scale=4.0, renoise_scale=4.0)
        latents, _ = sample_tiny(pipe, tiny, neutral, **scales)
        assert torch.equal(latents, sample_tiny(pipe, tiny, **scales)[0])
        assert torch.isfinite(sample_tiny(pipe, tiny, CFGPlusPlus(), **scales)[0]).all()


@pytest.mark.parametrize(
    ("guidance", "label"),
    [
        (CFGPlusPlus(), "cfg_plus_plus 0.6"),
        (CFGPlusPlus(5.0), "cfg_plus_plus 0.6"),
        (CFGPlusPlus(scale=1.0, matched=True), "cfg_plus_plus 1 matched"),
        (CFGPlusPlus(None, "blurry", 1, 0.5), "cfg_plus_plus 1 renoise 0.5 not 'blurry'"),
    ],
)
def test_its_label_tells_its_own_scale(guidance: CFGPlusPlus, label: str) -> None:
    assert guidance.label == label


def test_what_makes_no_sense_is_refused(pipe: Any) -> None:
    with pytest.raises(UserError, match="guidance.scale must be a finite number of at least 0"):
        CFGPlusPlus(scale=-1.0)
    with pytest.raises(UserError, match=r"guidance\.renoise_scale must be .* got 'none'"):
        CFGPlusPlus(renoise_scale="none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="guidance=cfg_plus_plus .*give more than 1"):
        sample_latents(pipe, CFGPlusPlus(), guidance_scale=1.0)
