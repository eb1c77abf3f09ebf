"""The measure of what clearer context does, against the stock network and on a case that is
known."""

from __future__ import annotations

import pytest
import torch

from asyndm.protocols import Pipeline
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import prompts
from experiments.studies.clearer_context import (
    Scenes,
    compute_errors,
    draw_scenes,
    measure_change,
)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return load_pipeline("shapes_mixed")


@pytest.fixture(scope="module")
def scenes(pipe: Pipeline) -> Scenes:
    return draw_scenes(pipe, prompts("test", "scene")[:6])


@torch.no_grad()
def test_without_a_gap_it_is_the_stock_networks_error(pipe: Pipeline, scenes: Scenes) -> None:
    t = torch.full((6,), 700)
    x = pipe.scheduler.add_noise(scenes.latents, scenes.noise, t)
    target = pipe.scheduler.get_velocity(scenes.latents, scenes.noise, t)
    output = pipe.unet(x, 700, encoder_hidden_states=scenes.text).sample
    for i, error in enumerate(compute_errors(pipe, scenes, 700, 0)):
        inside = scenes.objects[i] > 0.5
        assert float(error) == pytest.approx(
            float((output - target)[i][:, inside].square().mean()), rel=1e-4
        )


def test_the_context_is_what_changes(pipe: Pipeline, scenes: Scenes) -> None:
    assert measure_change(pipe, scenes, 700, 0)[0] == 0
    middle, low, high = measure_change(pipe, scenes, 700, 200)
    assert low < middle < high < 0
    everywhere = Scenes(
        scenes.latents, scenes.noise, scenes.text, torch.ones_like(scenes.objects), scenes.names
    )
    assert measure_change(pipe, everywhere, 700, 200)[0] == 0
