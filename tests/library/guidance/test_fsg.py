"""FSG against its algorithm in a plain loop, and against what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from asyndm import ExternalMask, NoMask, PiecewiseLinear, StepRecord
from asyndm.errors import UserError
from asyndm.guidance import FSG, CFGPlusPlus, ClassifierFree, Guidance
from asyndm.guidance.base import Guided
from asyndm.guidance.moment import Place
from tests.library.guidance.plain import ExactNetwork, Plain, make_level, make_moment
from tests.library.test_sampler import measure_distance, sample_latents

PLAIN = 1e-4
"""Against a loop of other operations, largest difference over the largest latent."""
PROMPT = "a red dog"
STEPS, SCALE = 6, 5.0


def run_fsg(pipe: Any, guidance: Guidance, **settings: Any) -> Tensor:
    settings = {
        "mask": NoMask(),
        "guidance_scale": SCALE,
        "eta": 0.0,
        "num_inference_steps": STEPS,
        **settings,
    }
    return sample_latents(pipe, PROMPT, ["red dog"], guidance=guidance, **settings)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    ("schedule", "inversion_scale"),
    [([[0, 3, 2], [2, 1, 1], [4, 9, 1], [5, 1, 1], [9, 1, 1]], 0.0), ([[1, 2, 1]], 2.0)],
)
def test_it_is_the_algorithm_written_out(
    pipe: StableDiffusionPipeline, schedule: list[list[int]], inversion_scale: float, eta: float
) -> None:
    """An interval of 9 ends at the last evaluation; the last step, and any beyond, has none."""
    scheduled = {start: (interval, times) for start, interval, times in schedule}

    def foresee(plain: Plain, x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        interval, times = scheduled.get(i, (0, 0))
        target = min(i + interval, STEPS - 1)
        for _ in range(times if target > i else 0):
            y = plain.ddim(x, plain.evaluate(x, i, SCALE), i, target)
            x = plain.ddim(y, plain.evaluate(y, target, inversion_scale), target, i)
        u, c = plain.evaluate(x, i, 0.0), plain.evaluate(x, i, 1.0)
        x = x - (1 - plain.alphas[i]) ** 0.5 * 0.7 * (c - u)
        return x, u, u

    expected = Plain(pipe, PROMPT, STEPS, eta).sample(foresee)
    guidance = FSG(scale=0.7, schedule=schedule, inversion_scale=inversion_scale)
    made = run_fsg(pipe, guidance, eta=eta)
    assert measure_distance(made, expected) <= PLAIN
    without = run_fsg(pipe, CFGPlusPlus(scale=0.7), eta=eta)
    assert measure_distance(made, without) > 100 * PLAIN


def test_with_an_exact_network_the_long_way_ends_where_it_began() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    levels = [0.02 + 0.3 * torch.rand(2, 1, 8, 8, generator=generator)]
    for _ in range(5):
        rise = torch.rand(2, 1, 8, 8, generator=generator)
        levels.append(levels[-1] + (1 - levels[-1]) * rise / 2)
        levels[-1][:, :, :4] = levels[0][:, :, :4]
    alpha, sigma = make_level(levels[0])
    x = alpha * x0 + sigma * noise
    moved: list[Tensor] = []

    def move(x: Tensor, guided: Guided) -> Tensor:
        moved.append(x)
        return x

    network = ExactNetwork(noise)
    places = [Place(torch.zeros(()), make_level(level)) for level in levels]
    FSG(5.0, schedule=[[0, 5, 2]]).step(x, Guided(noise), make_moment(network, places, move))
    (back,) = moved
    assert network.rows == 2 * 3  # beside those of the pipeline
    assert float((back - x).abs().max()) <= 2e-6 * float(x.abs().max())
    assert torch.equal(back[:, :, :4], x[:, :, :4])  # parked


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_foresight_it_is_the_guidance_of_its_scales(
    pipe: StableDiffusionPipeline, eta: float
) -> None:
    plain = run_fsg(pipe, ClassifierFree(), eta=eta)
    assert torch.equal(run_fsg(pipe, make_neutral(), eta=eta), plain)
    ahead = run_fsg(pipe, CFGPlusPlus(scale=1.0), eta=eta)
    assert torch.equal(run_fsg(pipe, FSG(schedule=()), eta=eta), ahead)


def make_neutral() -> FSG:
    return FSG(scale=SCALE, renoise_scale=SCALE, schedule=())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_parked_pixels_stay(pipe: StableDiffusionPipeline, eta: float) -> None:
    """In this step, even if they move before the end of the interval."""
    records: list[StepRecord] = []
    settings = {"mask": ExternalMask(np.eye(16)), "curve": PiecewiseLinear(1.0)}
    guidance = FSG(schedule=[[1, 2, 1]])
    run_fsg(pipe, guidance, eta=eta, callback=records.append, **settings)
    stays = records[1].timesteps == records[1].next_timesteps
    assert 0 < int(stays.sum()) < 256
    moves_later = records[2].timesteps != records[2].next_timesteps
    assert (stays & moves_later).any()
    first, second = (record.latents for record in records[:2])
    where = stays[:, None].expand_as(first)
    assert torch.equal(first[where], second[where])
    assert not torch.equal(first[~where], second[~where])


@pytest.mark.parametrize(("inversion_scale", "back"), [(0.0, 1), (1.0, 1), (0.5, 2)])
def test_its_cost_is_counted(
    pipe: StableDiffusionPipeline, inversion_scale: float, back: int
) -> None:
    records: list[StepRecord] = []
    guidance = FSG(
        SCALE,
        inversion_scale=inversion_scale,
        schedule=[[0, 3, 2], [2, 1, 1], [5, 1, 4], [7, 1, 1]],
    )
    run_fsg(pipe, guidance, callback=records.append)
    assert records[-1].evaluations == 2 * STEPS + 3 * (2 + back) == guidance.cost(STEPS).forward
    assert FSG(5.5).cost(40).forward == 95


@pytest.mark.parametrize(
    "schedule",
    [
        "0,5,2",
        5,
        [5],
        [[0, 5]],
        [[0, 0, 1]],
        [[0, -1, 1]],
        [[-1, 1, 1]],
        [[0, 1, 0]],
        [[0, 1.0, 1]],
    ],
)
def test_schedules_of_another_form_are_refused(schedule: Any) -> None:
    with pytest.raises(UserError, match=r"guidance\.schedule must be a list of \[start, interval"):
        FSG(schedule=schedule)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="each start once"):
        FSG(schedule=[[0, 5, 2], [0, 1, 1]])
    with pytest.raises(UserError, match=r"guidance\.inversion_scale must be a finite number"):
        FSG(inversion_scale=float("nan"))
    with pytest.raises(UserError, match=r"guidance\.scale must be a finite number"):
        FSG(scale=-1)


def test_its_label_has_what_is_not_usual() -> None:
    assert FSG(5.5).label == "fsg 1 5.5"
    assert FSG(5.5, schedule=[[0, 3, 1]], inversion_scale=1).label == "fsg 1 back at 1 at 0:3:1 5.5"
    assert FSG(5.0, schedule=[]).label == "fsg 1 at no step 5"
    assert FSG() == FSG(schedule=[[0, 5, 2], [5, 5, 2], [15, 5, 1]]) and len({FSG(), FSG()}) == 1
