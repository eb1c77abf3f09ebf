"""What pipelines do beside text to image: nothing is written for it, and all of it is the stock
pipeline's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
)

import asyndm
from asyndm.guidance import Guidance
from asyndm.guidance.base import Guided
from asyndm.guidance.moment import Moment
from asyndm.records import StepRecord
from tests.library.networks.cases import (
    PROMPTS,
    SEEDS,
    SUBJECTS,
    VARIANTS,
    build,
    make_call,
    measure_distance,
    record_evaluations,
    sample_dm,
    sample_ours,
    sample_stock,
)
from tests.library.networks.test_schedulers import ROUNDING, SD_EULER, set_scheduler
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import draw_picture

EULER = ("sd_img2img", "sd_inpaint", "sdxl_img2img", "sdxl_controlnet")

by_name = pytest.mark.parametrize("name", VARIANTS)


@by_name
def test_dm_is_the_stock_pipeline(name: str) -> None:
    expected = sample_stock(name, num_inference_steps=5)
    assert torch.isfinite(expected).all()
    assert measure_distance(sample_dm(name, num_inference_steps=5), expected) <= VARIANTS[name]
    assert torch.equal(sample_stock(name, num_inference_steps=5), expected)


@by_name
def test_asynchronous_pictures_are_others_and_the_same_one_by_one(name: str) -> None:
    call: dict[str, Any] = {"num_inference_steps": 4}
    made = sample_ours(name, **call)
    assert measure_distance(made, sample_stock(name, **call)) > 0.01
    one_by_one = sample_ours(name, batch_invariant=True, **call)
    if name != "sd3_controlnet":  # whose noise is drawn for the whole batch at once
        assert measure_distance(one_by_one, made) <= 1e-4
    alone = sample_ours(name, prompts=PROMPTS[:1], subjects=SUBJECTS[0], seeds=SEEDS[:1], **call)
    assert measure_distance(one_by_one[:1], alone) <= 1e-6


@pytest.mark.parametrize("name", EULER)
def test_eulers_own_scale_of_a_noised_picture(name: str) -> None:
    pipe = set_scheduler(name, EulerDiscreteScheduler(**SD_EULER))
    call: dict[str, Any] = {"num_inference_steps": 5}
    assert (
        measure_distance(sample_dm(name, pipe, **call), sample_stock(name, pipe, **call))
        <= ROUNDING
    )


def test_a_single_picture_is_for_each_prompt() -> None:
    call: dict[str, Any] = {
        **make_call("sd_img2img", build("sd_img2img"), PROMPTS),
        "image": PIPELINES["sd_img2img"].arguments["image"],
    }
    made = asyndm.sample(
        build("sd_img2img"),
        PROMPTS,
        mask=asyndm.NoMask(),
        seed=SEEDS,
        eta=0.0,
        batch_invariant=False,
        **call,
    )
    assert torch.equal(made, sample_stock("sd_img2img"))


def test_a_picture_for_each_prompt() -> None:
    image = [draw_picture(32, 48, seed=seed) for seed in (1, 2)]
    made = sample_dm("sd_img2img", image=image)
    assert torch.equal(made, sample_stock("sd_img2img", image=image))
    second = sample_dm("sd_img2img", prompts=PROMPTS[1:], seeds=SEEDS[1:], image=image[1:])
    assert (
        measure_distance(sample_dm("sd_img2img", image=image, batch_invariant=True)[1:], second)
        == 0
    )


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_every_strength_begins_on_its_own_rung(strength: float) -> None:
    for name in ("sd_img2img", "flux_img2img"):
        call: dict[str, Any] = {"strength": strength, "num_inference_steps": 5}
        assert torch.equal(sample_dm(name, **call), sample_stock(name, **call))
        kept: list[StepRecord] = []
        sample_ours(name, callback=kept.append, **call)
        assert [record.remaining for record in kept] == list(range(len(kept)))[::-1]
        assert len(kept) == len(record_evaluations(name, **call))


def combine_nets() -> tuple[Any, dict[str, Any]]:
    single = build("sd_controlnet")
    other = type(single.controlnet).from_unet(
        single.unet, conditioning_embedding_out_channels=(8, 8), load_weights_from_unet=False
    )
    nets = MultiControlNetModel([single.controlnet, other.eval()])
    parts = {**single.components, "controlnet": nets, "requires_safety_checker": False}
    pipe = StableDiffusionControlNetPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {
        "image": [draw_picture(32, 48), draw_picture(32, 48, seed=1)],
        "controlnet_conditioning_scale": [0.5, 0.9],
    }
    return pipe, call


def test_several_controlnets() -> None:
    torch.manual_seed(0)
    pipe, call = combine_nets()
    expected = sample_stock("sd_controlnet", pipe, **call)
    assert torch.equal(sample_dm("sd_controlnet", pipe, **call), expected)
    made = sample_ours("sd_controlnet", pipe, **call)
    assert measure_distance(made, expected) > 0.01
    assert (
        measure_distance(sample_ours("sd_controlnet", pipe, batch_invariant=True, **call), made)
        <= 1e-4
    )
    assert torch.equal(sample_stock("sd_controlnet", pipe, **call), expected)


def test_a_controlnet_is_told_the_same_timesteps_as_the_network() -> None:
    pipe, told = build("sd_controlnet"), list[torch.Tensor]()
    handles = [
        network.time_proj.register_forward_pre_hook(
            lambda module, args: told.append(args[0].as_subclass(torch.Tensor))
        )
        for network in (pipe.unet, pipe.controlnet)
    ]
    try:
        sample_ours("sd_controlnet")
    finally:
        for handle in handles:
            handle.remove()
    assert len(told) == 10 and max(map(len, told)) > 8
    for control, network in zip(told[::2], told[1::2], strict=True):
        assert torch.equal(control, network)


HANDED = 0.6


def run_base(made: Any, **changes: Any) -> Any:
    return made("sdxl", denoising_end=HANDED, num_inference_steps=10, **changes)


def refine(made: Any, latents: Any, **changes: Any) -> Any:
    return made(
        "sdxl_refiner", image=latents, denoising_start=HANDED, num_inference_steps=10, **changes
    )


def test_a_refiner_goes_on_from_the_base() -> None:
    handed = run_base(sample_stock)
    assert torch.equal(run_base(sample_dm), handed)
    expected = refine(sample_stock, handed)
    assert torch.equal(refine(sample_dm, handed), expected)
    assert measure_distance(refine(sample_ours, run_base(sample_ours)), expected) > 0.01


def test_all_pixels_are_handed_over_at_one_level_and_taken_up_there() -> None:
    before, after = list[StepRecord](), list[StepRecord]()
    handed = run_base(sample_ours, callback=before.append)
    refine(sample_ours, handed, callback=after.append)
    levels = [record.next_timesteps for record in before]
    assert len(levels) == 6 and len(after) == 4
    assert any(float(each.max() - each.min()) > 1 for each in levels[:-1])
    assert levels[-1].unique().numel() == 1
    assert torch.equal(levels[-1], after[0].timesteps)


def test_eulers_own_scale_at_the_hand_over() -> None:
    """SDXL is published with Euler, whose latents are x₀ + σ ε: a stock refiner goes on from
    those."""
    pipe = set_scheduler("sdxl", EulerDiscreteScheduler(**SD_EULER))
    assert (
        measure_distance(run_base(sample_dm, pipe=pipe), run_base(sample_stock, pipe=pipe))
        <= ROUNDING
    )


def test_eulers_own_scale_is_taken_up_from_a_stock_base() -> None:
    handed = run_base(sample_stock, pipe=set_scheduler("sdxl", EulerDiscreteScheduler(**SD_EULER)))
    pipe = set_scheduler("sdxl_refiner", EulerDiscreteScheduler(**SD_EULER))
    assert (
        measure_distance(
            refine(sample_dm, handed, pipe=pipe), refine(sample_stock, handed, pipe=pipe)
        )
        <= ROUNDING
    )


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_a_refiner_goes_on_from_what_a_guidance_has_moved(scheduler: Any) -> None:
    moved, begun = list[torch.Tensor](), list[torch.Tensor]()

    class Moving(Guidance):
        def prepare(self, x: torch.Tensor, moment: Moment) -> torch.Tensor:
            moved.append(x + 1)
            return moved[-1]

        def step(self, x: torch.Tensor, guided: Guided, moment: Moment) -> torch.Tensor:
            begun.append(x)
            return super().step(x, guided, moment)

    pipe = set_scheduler("sdxl_refiner", scheduler(**SD_EULER))
    refine(sample_ours, run_base(sample_stock), pipe=pipe, guidance=Moving())
    assert len(moved) == len(begun) == 4
    assert all(torch.equal(*pair) for pair in zip(moved, begun, strict=True))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "pixart", "sana"])
def test_no_guidance_is_the_pipelines(name: str, scale: float) -> None:
    expected = sample_stock(name, guidance_scale=scale)
    limit = 1e-6 if name == "pixart" else 0.0
    assert measure_distance(sample_dm(name, guidance_scale=scale), expected) <= limit
    if scale == 0:
        assert measure_distance(sample_ours(name, guidance_scale=scale), expected) > 0.005


def halve(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Changes the latents halfway, as users do."""
    return {"latents": given["latents"] * 0.9} if step == 1 else {}


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_rescaled_guidance_and_a_callback_that_changes_latents(name: str) -> None:
    call: dict[str, Any] = {
        "guidance_rescale": 0.7,
        "callback_on_step_end": halve,
        "num_inference_steps": 4,
    }
    expected = sample_stock(name, **call)
    assert (
        measure_distance(expected, sample_stock(name, guidance_rescale=0.7, num_inference_steps=4))
        > 1e-3
    )
    assert torch.equal(sample_dm(name, **call), expected)
    assert measure_distance(sample_ours(name, **call), expected) > 0.01


@pytest.mark.parametrize("name", ["flux", "sd3", "qwen"])
def test_a_callback_that_changes_latents_of_a_flow(name: str) -> None:
    call: dict[str, Any] = {"callback_on_step_end": halve, "num_inference_steps": 4}
    expected = sample_stock(name, **call)
    assert measure_distance(sample_dm(name, **call), expected) == 0
    assert measure_distance(sample_ours(name, **call), expected) > 0.01


# the stock pipeline of SD itself fails with transformers 5
@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_skipped_layers_of_clip(name: str) -> None:
    expected = sample_stock(name, clip_skip=1)
    assert measure_distance(expected, sample_stock(name)) > 1e-3
    assert torch.equal(sample_dm(name, clip_skip=1), expected)
    assert measure_distance(sample_ours(name, clip_skip=1), expected) > 0.01


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_two_calls_a_step_read_the_prompts(name: str) -> None:
    """FLUX and Qwen-Image guide by a second call, whose text is the negative prompt."""
    call: dict[str, Any] = {
        "true_cfg_scale": 3.0,
        "negative_prompt": "a blue house",
        "num_inference_steps": 3,
    }
    assert torch.equal(sample_dm(name, **call), sample_stock(name, **call))
    other: dict[str, Any] = {**call, "negative_prompt": "a red cat"}
    maps = []
    for each in (call, other):
        kept: list[StepRecord] = []
        sample_ours(name, callback=kept.append, **each)
        maps.append(kept[0].maps)
    assert maps[0] is not None and maps[1] is not None and torch.equal(maps[0], maps[1])


def test_pictures_are_the_stock_pipelines() -> None:
    for name in ("sdxl", "flux", "sana", "qwen"):
        expected = sample_stock(name, output_type="np")
        made = sample_dm(name, output_type="np")
        assert made.shape == expected.shape and np.abs(made - expected).max() <= 1e-6
