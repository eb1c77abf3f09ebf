"""Faults that a second reader found; each stands for a kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

import asyndm
from asyndm import StepRecord, Subject, UserError
from tests.conftest import make_pipeline
from tests.library.networks.cases import (
    PROMPTS,
    SUBJECTS,
    build,
    make_call,
    make_generators,
    measure_distance,
    sample_dm,
    sample_ours,
    sample_stock,
)
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import draw_picture


def set_scheduler(name: str, scheduler: Any) -> Any:
    pipe = copy.copy(build(name))
    pipe.register_modules(scheduler=scheduler)
    return pipe


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(
    "mask", [asyndm.DynamicMask(), asyndm.StaticMask()], ids=lambda mask: mask.name
)
def test_a_subject_out_of_reach_that_is_left_out_owns_no_pixel(mask: asyndm.Mask) -> None:
    prompt = "a dog " + "x " * 80 + "a cat"
    kept: list[StepRecord] = []
    settings: dict[str, Any] = {"prompts": [prompt], "seeds": [3], "mask": mask}
    sample_ours(
        "sd",
        subjects=["dog", Subject("cat", 1.0, required=False)],
        callback=kept.append,
        **settings,
    )
    assert all(record.weights.shape[1] == 1 for record in kept)
    assert all(0 < float(record.weights.mean()) < 1 for record in kept[1:])
    alone = sample_ours("sd", subjects=["dog"], **settings)
    assert torch.equal(
        sample_ours("sd", subjects=["dog", Subject("cat", 1.0, required=False)], **settings), alone
    )


@pytest.mark.parametrize("part", ["to_q", "to_out"])
def test_ctrl_c_in_the_middle_of_a_layer_that_is_read_leaves_nothing(part: str) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe = build("flux")
    expected = sample_stock("flux")
    layer = pipe.transformer.transformer_blocks[0].attn
    handle = (layer.to_q if part == "to_q" else layer.to_out[0]).register_forward_pre_hook(stop)
    before = torch._C._len_torch_function_stack()
    try:
        with pytest.raises(KeyboardInterrupt):
            sample_ours("flux", attention_layers=[0])
    finally:
        handle.remove()
    assert torch._C._len_torch_function_stack() == before
    assert torch.equal(sample_stock("flux"), expected)


@pytest.mark.parametrize("name", ["sd_img2img", "sdxl_img2img"])
def test_each_image_of_a_prompt_may_have_a_picture_of_its_own(name: str) -> None:
    size = PIPELINES[name].size
    pictures = [draw_picture(*size, seed=seed) for seed in (1, 2)]
    call: dict[str, Any] = {
        "prompts": ["a dog"],
        "subjects": ["dog"],
        "seeds": [3, 8],
        "num_images_per_prompt": 2,
    }
    at_once, one_by_one = (
        sample_ours(name, image=pictures, batch_invariant=each, **call) for each in (False, True)
    )
    assert measure_distance(one_by_one, at_once) < 1e-4
    second = sample_ours(
        name, image=[pictures[1]], **{**call, "seeds": [8], "num_images_per_prompt": 1}
    )
    assert measure_distance(second, at_once[1:]) < 1e-4
    with pytest.raises(UserError, match="image has 3 entries for 1 prompts"):
        sample_ours(name, image=[*pictures, pictures[0]], **call)


def test_another_pipeline_of_the_same_network_is_refused_inside_the_context() -> None:
    pipe = build("sd")
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    call = {"image": draw_picture(32, 48), "num_inference_steps": 3, "output_type": "latent"}
    for first in (True, False):
        with asyndm.asynchronous(pipe, "a dog", ["dog"]):
            if first:
                pipe("a dog", num_inference_steps=2, output_type="latent", height=32, width=48)
            with pytest.raises(UserError, match="another pipeline uses the network"):
                other("a dog", **call)
    assert other("a dog", **call).images.isfinite().all()


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sd", LCMScheduler(beta_schedule="scaled_linear")),
        ("flux", FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)),
    ],
)
def test_schedulers_whose_step_is_of_another_kind_are_refused(name: str, scheduler: Any) -> None:
    with pytest.raises(UserError, match="has a step of its own kind"):
        sample_ours(name, set_scheduler(name, scheduler))


def test_a_scheduler_that_draws_noise_does_so_in_the_context_as_well() -> None:
    pipe = set_scheduler(
        "sd", EulerAncestralDiscreteScheduler.from_config(build("sd").scheduler.config)
    )
    call = make_call("sd", pipe, PROMPTS)
    expected = pipe(PROMPTS, generator=make_generators([3, 8]), **call).images
    with asyndm.asynchronous(pipe, PROMPTS, mask=asyndm.NoMask()):
        made = pipe(PROMPTS, generator=make_generators([3, 8]), **call).images
    assert measure_distance(made, expected) < 2e-5


@pytest.mark.parametrize("name", ["pixart", "pixart_alpha", "sana", "sd3", "lumina2"])
def test_one_image_without_guidance(name: str) -> None:
    one: dict[str, Any] = {"prompts": PROMPTS[1:], "seeds": [8], "guidance_scale": 1.0}
    assert measure_distance(sample_dm(name, **one), sample_stock(name, **one)) <= 1e-6
    made = sample_ours(name, subjects=SUBJECTS[1], **one)
    both = sample_ours(name, guidance_scale=1.0)
    assert (
        measure_distance(made, sample_stock(name, **one)) > 1e-3
        and measure_distance(made, both[1:]) < 1e-4
    )


def test_a_broken_picture_is_counted_once_beside_a_safety_checker() -> None:
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    config = CLIPConfig(
        text_config=sizes,
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    pipe = make_pipeline()
    pipe.safety_checker = StableDiffusionSafetyChecker(config).eval()
    pipe.feature_extractor = CLIPImageProcessor(size=8, crop_size=8)
    calls = 0

    def break_second(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * float("nan") if calls == 2 else output

    pipe.vae.decoder.register_forward_hook(break_second)
    with pytest.raises(asyndm.BrokenImages, match="images 1 came out") as caught:
        asyndm.sample(pipe, ["a dog"] * 3, mask=asyndm.NoMask(), num_inference_steps=1)
    assert [image is None for image in caught.value.images] == [False, True, False]


@pytest.mark.parametrize(("name", "further"), [("flux", "prompt_2"), ("sd3", "prompt_3")])
def test_further_prompts_as_lists_are_each_prompts_own(name: str, further: str) -> None:
    call: dict[str, Any] = {further: list(PROMPTS)}
    assert torch.equal(sample_ours(name, **call), sample_ours(name))


@pytest.mark.parametrize("name", ["pixart", "sana", "flux"])
def test_a_static_mask_is_rehearsed_without_the_users_callbacks(name: str) -> None:
    steps: list[int] = []

    def count(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return values

    call: dict[str, Any] = {} if name == "pixart" else {"callback_on_step_end": count}
    made = sample_ours(name, mask=asyndm.StaticMask(), **call)
    assert measure_distance(made, sample_stock(name)) > 1e-3
    assert steps == ([] if name == "pixart" else [0, 1, 2, 3, 4])


def test_bad_words_of_a_context_are_refused() -> None:
    pipe = build("sd")
    for wrong, message in (
        ({"curvee": 1}, "takes no argument 'curvee'"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number"),
        ({"prompt_embeds": torch.zeros(2, 77, 16)}, "prompt_embeds has 2 entries for 1 prompts"),
    ):
        with (
            pytest.raises(UserError, match=message),
            asyndm.asynchronous(pipe, "a dog", ["dog"], **wrong),
        ):
            raise AssertionError("entered")
