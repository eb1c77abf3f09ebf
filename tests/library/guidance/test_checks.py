"""What is asked of guidances in vain: refused, or said once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import asyndm
from asyndm import NoMask, StaticMask, UserError
from asyndm.errors import say_once
from asyndm.guidance import (
    FSG,
    SCFG,
    AttendAndExcite,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    InitNO,
    Interval,
    PerturbedAttention,
    SkipLayers,
    SynGen,
    ZSampling,
)
from tests.library.guidance.combining import sample_latents

IDLE: list[tuple[Guidance, int, str]] = [
    (SkipLayers(), 5, "does nothing, as none of 5 steps lies between start=0.01 and stop=0.2"),
    (Interval(start=0.3, stop=0.39), 5, "never guides, as none of 5 steps lies from start=0.3"),
    (FSG(), 10, "has no foresight at the starts 15 of its schedule in 10 steps"),
    (FSG(schedule=[[0, 1, 1], [3, 1, 1]]), 4, "has no foresight at the starts 3"),
    (ZSampling(), 1, "makes no zigzag in a single step"),
    (CFGZeroStar(zero_steps=4), 4, "leaves x as it is in all 4 steps, by zero_steps=4"),
    (AttendAndExcite(until=0.1), 5, "moves nothing, as none of 5 steps is within until=0.1"),
    (SynGen(until=0.2), 4, "moves nothing, as none of 4 steps is within until=0.2"),
    (AttendAndExcite(refine_at=[0.0, 0.6], thresholds=[0.1, 0.2]), 10, "does not refine x at 0.6"),
]
BUSY: list[tuple[Guidance, int]] = [
    *((SkipLayers(), 6), (SkipLayers(scale=0), 5), (Interval(), 1), (FSG(), 17), (FSG(), 50)),
    *((FSG(schedule=()), 5), (ZSampling(), 2), (ZSampling(zigzags=0), 1), (CFGZeroStar(), 2)),
    (InitNO(), 1),
    *((AttendAndExcite(), 10), (AttendAndExcite(step_size=0, until=0.0), 10), (InitNO(), 10)),
    (SynGen(until=0.0), 5),
    (AttendAndExcite(refine_at=[0.9], thresholds=[0.1], refinements=0), 10),
]


@pytest.mark.parametrize(("guidance", "steps", "line"), IDLE)
def test_a_setting_without_effect_is_named(guidance: Guidance, steps: int, line: str) -> None:
    assert guidance.find_idle(steps).startswith(line)


@pytest.mark.parametrize(("guidance", "steps"), BUSY)
def test_of_one_with_effect_and_of_one_that_says_so_itself_nothing_is_said(
    guidance: Guidance, steps: int
) -> None:
    assert guidance.find_idle(steps) == ""


def test_it_is_said_once_for_all_images_and_runs(pipe: Any) -> None:
    say_once.cache_clear()
    with pytest.warns(UserWarning, match="guidance=interval never guides") as said:
        sample_latents(pipe, Interval(start=0.3, stop=0.31))
        sample_latents(pipe, Interval(start=0.3, stop=0.31))
    assert len([each for each in said if "never guides" in str(each.message)]) == 1


def test_that_no_pixel_is_on_the_curve_is_said(pipe: Any) -> None:
    say_once.cache_clear()
    guidance = AttendAndExcite(where="subject", refinements=0)
    with pytest.warns(UserWarning, match="where=subject has moved nothing"):
        sample_latents(pipe, guidance, mask=NoMask())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_latents(pipe, guidance)
        sample_latents(pipe, guidance, mask=StaticMask())  # whose rehearsal has no pixel there


@pytest.mark.parametrize(
    "make",
    [
        lambda: CFGPlusPlus(matched="no"),  # type: ignore[arg-type]
        lambda: CFGZeroStar(rescale=1),  # type: ignore[arg-type]
        lambda: SCFG(exact_powers="false"),  # type: ignore[arg-type]
        lambda: AttendAndExcite(padding=0),  # type: ignore[arg-type]
    ],
)
def test_what_is_true_or_false_is_nothing_else(make: Callable[[], Guidance]) -> None:
    with pytest.raises(UserError, match="must be true or false"):
        make()


@pytest.mark.parametrize("kind", [ClassifierFree, CFGPlusPlus, PerturbedAttention])
@pytest.mark.parametrize("scale", [True, "5", math.nan, math.inf])
def test_a_guidance_scale_is_a_number(pipe: Any, kind: Any, scale: Any) -> None:
    with pytest.raises(UserError, match="guidance_scale must be a finite number"):
        asyndm.sample(pipe, "a dog", ["dog"], guidance=kind(guidance_scale=scale))


@pytest.mark.parametrize("guidance", [CFGPlusPlus, "cfg_plus_plus", None, 5.0])
def test_a_guidance_is_an_object(pipe: Any, guidance: Any) -> None:
    with pytest.raises(UserError, match="guidance must be a Guidance such as"):
        asyndm.sample(pipe, "a dog", ["dog"], guidance=guidance)


@pytest.mark.parametrize("guidance", [AttendAndExcite(), SynGen(), InitNO()])
def test_no_gradient_is_taken_in_inference_mode(pipe: Any, guidance: Guidance) -> None:
    records: list[asyndm.StepRecord] = []
    with torch.inference_mode(), pytest.raises(UserError, match="outside torch.inference_mode"):
        sample_latents(pipe, guidance, callback=records.append)
    assert not records
