"""Another scheduler for a pipeline: the settings reach the ladder, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

import asyndm
from asyndm import NoMask, UserError
from asyndm.models import read_parts
from asyndm.schedulers import change_scheduler
from asyndm.solvers import DPMSolverPlusPlus2M
from tests.conftest import make_pipeline
from tests.library.guidance.combining import sample_latents
from tests.library.test_sampler import measure_distance
from tests.pipelines.registry import PIPELINES

KARRAS = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("saved")
    make_pipeline().save_pretrained(saved)
    return saved


def test_a_loaded_pipeline_has_it_and_its_outline_too(folder: Path) -> None:
    pipe = asyndm.load(folder, device="cpu", scheduler=KARRAS)
    for each in (pipe, read_parts(folder, scheduler=KARRAS)):
        assert isinstance(each.scheduler, DPMSolverMultistepScheduler)
        assert each.scheduler.config["use_karras_sigmas"]
        betas = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
        own = make_pipeline().scheduler.config
        assert {name: each.scheduler.config[name] for name in betas} == {
            name: own[name] for name in betas
        }


def test_the_steps_are_those_of_the_stock_pipeline_with_it() -> None:
    changed, stock = make_pipeline(), make_pipeline()
    change_scheduler(changed, KARRAS)
    made = sample_latents(
        changed, solver=DPMSolverPlusPlus2M(max_ratio=None), mask=NoMask(), eta=0.0
    )[0]
    stock.scheduler = DPMSolverMultistepScheduler.from_config(
        stock.scheduler.config, use_karras_sigmas=True
    )
    expected = stock(
        ["a red dog", "a rabbit and a cat"],
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)],
        output_type="latent",
    ).images
    assert measure_distance(made, expected) < 1e-4
    assert measure_distance(made, sample_latents(make_pipeline(), mask=NoMask(), eta=0.0)[0]) > 0.1


def test_a_config_that_says_nothing_of_clipping_does_not_begin_to_clip() -> None:
    pipe = make_pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    change_scheduler(pipe, {"_class_name": "DDIMScheduler"})
    assert isinstance(pipe.scheduler, DDIMScheduler) and not pipe.scheduler.config["clip_sample"]
    change_scheduler(pipe, {"clip_sample": True})
    assert pipe.scheduler.config["clip_sample"]


def test_a_flow_model_takes_another_shift() -> None:
    tiny = PIPELINES["sd3"]
    pipe: Any = tiny.build()
    change_scheduler(pipe, {"shift": 5.0})
    assert pipe.scheduler.config["shift"] == 5.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("trailing", "scheduler must be settings by their names, as in {timestep_spacing: trail"),
        ({1: 2}, "scheduler must be settings by their names"),
        ({"spacing": "trailing"}, r"scheduler\.spacing: no setting of DDIMScheduler; there are"),
        ({"timestep_spacing": "odd"}, "scheduler: timestep_spacing=odd: odd is not supported"),
        ({"_class_name": "DDIM"}, r"scheduler\._class_name=DDIM: no scheduler of diffusers"),
        ({"_class_name": "UNet2DModel"}, "no scheduler of diffusers"),
        ({"_class_name": 3}, "no scheduler of diffusers"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "its levels are of flow matching, but the model's are of diffusion",
        ),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler has a step of its own kind"),
        (
            {**KARRAS, "use_exponential_sigmas": True},
            "use_exponential_sigmas=True: Only one of",
        ),
    ],
)
def test_what_is_no_scheduler_of_the_model_is_refused(settings: Any, message: str) -> None:
    pipe = make_pipeline()
    own = pipe.scheduler
    with pytest.raises(UserError, match=message):
        change_scheduler(pipe, settings)
    assert pipe.scheduler is own
