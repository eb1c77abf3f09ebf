"""Runs and moments for guidances that combine what is evaluated anyway."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

import asyndm
from asyndm import DynamicMask, Mask, NoMask, StepRecord
from asyndm.guidance import Guidance
from asyndm.guidance.moment import Moment, Place
from asyndm.ladder import Level
from asyndm.steps import Prediction
from tests.pipelines.shared import PROMPT, Tiny

MASKS: list[Mask] = [NoMask(), DynamicMask()]
TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


def sample_latents(
    pipe: Any, guidance: Guidance | None = None, **settings: Any
) -> tuple[Tensor, list[StepRecord]]:
    """Two latents of the tiny Stable Diffusion, and the steps of the last."""
    records: list[StepRecord] = []
    own = {} if guidance is None else {"guidance": guidance}
    call = {
        "prompt": ["a red dog", "a rabbit and a cat"],
        "subjects": [["red dog"], ["rabbit", "cat"]],
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "seed": 3,
        "output_type": "latent",
        "callback": records.append,
    }
    return asyndm.sample(pipe, **{**call, **own, **settings}), records


def sample_tiny(
    pipe: Any, tiny: Tiny, guidance: Guidance | None = None, **settings: Any
) -> tuple[Tensor, list[StepRecord]]:
    """One latent of any tiny pipeline, and its steps."""
    call = {"prompt": PROMPT, "subjects": ["red dog", "rabbit"], **tiny.arguments}
    size = {"height": tiny.size[0], "width": tiny.size[1]}
    return sample_latents(pipe, guidance, **{**call, **size, **settings})


def check_cost(guidance: Guidance, records: list[StepRecord]) -> None:
    """As many rows are counted as it says."""
    last = records[-1]
    cost = guidance.cost(last.step)
    assert cost.exact
    assert (last.evaluations, last.backward_evaluations) == (cost.forward, cost.backward)


def count_rows(records: list[StepRecord]) -> tuple[int, int]:
    """Forward and backward of all calls, whose last steps tell."""
    ends = [record for record in records if record.step == records[-1].step]
    return (
        sum(record.evaluations for record in ends),
        sum(record.backward_evaluations for record in ends),
    )


def draw(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
    """Normal tensors, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def draw_levels(shape: tuple[int, ...], flow: bool, seed: int = 0) -> tuple[Level, Level]:
    """A level for each pixel, and a later one, float64; every third pixel is parked."""
    generator = torch.Generator().manual_seed(seed)
    high, low = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    high, low = 0.2 + 0.7 * high.maximum(low), 0.1 + 0.7 * high.minimum(low)
    parked = torch.arange(high.numel()).view(shape) % 3 == 0
    sigmas = high, low.where(~parked, high)
    alphas = [1 - sigma if flow else (1 - sigma**2).sqrt() for sigma in sigmas]
    level_t, level_s = (Level(alpha, sigma) for alpha, sigma in zip(alphas, sigmas, strict=True))
    return level_t, level_s


def make_moment(
    here: Level, there: Level | None = None, *, prediction_type: str = "epsilon", **known: Any
) -> Moment:
    """A step between levels, with g = 5 unless told otherwise."""
    rungs = torch.zeros(1)
    call: dict[str, Any] = {
        "step": 1,
        "steps": 50,
        "guidance_scale": 5.0,
        "here": Place(rungs, here),
        "there": Place(rungs, here if there is None else there),
        "prediction": Prediction(prediction_type),
        "state": {},
        **known,
    }
    return Moment(**{each.name: None for each in fields(Moment)} | call)
