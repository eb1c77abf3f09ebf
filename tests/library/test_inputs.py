"""What cannot be sampled is refused in one line, before the network runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import (
    EDMEulerScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet3DConditionModel,
)

import asyndm
from asyndm import (
    ExternalMask,
    NoMask,
    Quadratic,
    StaticMask,
    UserError,
)
from tests.conftest import make_pipeline
from tests.library.test_sampler import sample_latents

BAD: dict[str, dict[str, Any]] = {
    "num_inference_steps must be": {"num_inference_steps": 0},
    "from 1 to 1000": {"num_inference_steps": 1001},
    "eta must be a number in": {"eta": 1.5},
    "guidance_scale must be a finite number": {"guidance_scale": float("nan")},
    "guidance_scale must be a finite number, got '4'": {"guidance_scale": "4"},
    "guidance must be a Guidance such as": {"guidance": 3.0},
    "StableDiffusionPipeline takes no argument 'guide_scale'": {"guide_scale": 3.0},
    "generator is set by asyndm.sample itself: use seed": {"generator": None},
    "num_images_per_prompt must be a whole number of at least 1": {"num_images_per_prompt": 0},
    "text_level must be one of mean, slowest, fastest": {"text_level": "middle"},
    "attention_keys must be one of joint, text": {"attention_keys": "image"},
    "attention_layers must be a list of whole numbers": {"attention_layers": [1.5]},
    "height must be a positive multiple of 8": {"height": 36},
    "width must be a positive multiple of 8": {"width": 0},
    "seed must be a whole number": {"seed": -1},
    "seed must be a whole number from 0 to 2^63 - 1, or a list of them, got 1.5": {"seed": 1.5},
    "or a list of them, got None": {"seed": None},
    "or a list of them, got True": {"seed": True},
    "or a list of them, got [1, 2, 3.0]": {"seed": [1, 2, 3.0]},
    "or a list of them, got 9223372036854775808": {"seed": 2**63},
    "seed has 2 entries for 3 prompts": {"seed": [1, 2]},
    "output_type must be one of": {"output_type": "jpeg"},
    "curve must be a Curve such as asyndm.Quadratic(0.5), got 'quadratic'": {"curve": "quadratic"},
    "got <class 'asyndm.curves.Quadratic'>": {"curve": Quadratic},
    "mask must be a Mask such as asyndm.DynamicMask(), got None": {"mask": None},
    "got <class 'asyndm.masks.NoMask'>": {"mask": NoMask},
    "callback must be a function of a StepRecord, or None, got 3": {"callback": 3},
    "attention_factor must be a whole number or None, got [1]": {"attention_factor": [1]},
    "neither a picture nor an array of numbers": {"mask": ExternalMask(np.array([["a"]]))},
    "attention_factor=8": {"attention_factor": 8},
    "there is no file": {"mask": ExternalMask("nowhere.png")},
    "mask 'dynamic' needs subjects, but prompt 1 has none": {"subjects": None},
    "mask 'static' needs subjects, but prompt 2 has none": {
        "subjects": [["dog"], [], ["cat"]],
        "mask": StaticMask(),
    },
    "'bird' is not in the prompt": {"subjects": [["bird"], ["cat"], ["cat"]]},
    "subjects has 2 lists for 3 prompts": {"subjects": [["dog"], ["cat"]]},
    "a list of them for each prompt, got [3]": {"subjects": [3]},
    "a list of them for each prompt, got 3": {"subjects": 3},
    "a list of them for each prompt, got [['dog', 3], ['cat'], ['cat']]": {
        "subjects": [["dog", 3], ["cat"], ["cat"]]
    },
    "prompt must be a text or a non-empty list of texts, got 3": {"prompt": 3},
    "negative_prompt must be a text or a list of texts, got 3": {"negative_prompt": 3},
    "negative_prompt must be a text or a list of texts, got [3]": {"negative_prompt": [3]},
    "not a mixture": {"subjects": [["dog"], "cat", ["cat"]]},
    "prompt must be a text": {"prompt": []},
    "negative_prompt has 2 entries for 3": {"negative_prompt": ["", ""]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_before_the_network_runs(
    pipe: StableDiffusionPipeline, message: str
) -> None:
    evaluations: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: evaluations.append(1))
    try:
        with pytest.raises(UserError) as caught:
            sample_latents(pipe, **BAD[message])
    finally:
        handle.remove()
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert evaluations == []


def test_other_pipelines_and_schedulers_are_refused() -> None:
    with pytest.raises(UserError, match="pipe is a object, which asyndm does not serve"):
        asyndm.sample(object(), "a dog")
    pipe = make_pipeline()
    films = StableDiffusionPipeline(
        **{
            **pipe.components,
            "unet": UNet3DConditionModel(sample_size=8, block_out_channels=(32,) * 4),
        },
        requires_safety_checker=False,
    )
    with pytest.raises(
        UserError, match=r"StableDiffusionPipeline \(with UNet3DConditionModel\), which asyndm does"
    ):
        sample_latents(films)
    edits = StableDiffusionInstructPix2PixPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(UserError, match="StableDiffusionInstructPix2PixPipeline .* does not serve"):
        sample_latents(edits)
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(UserError, match="no noise levels of a diffusion model"):
        sample_latents(pipe)
