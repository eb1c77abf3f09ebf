"""Every real model's YAML asks for what its pipeline takes, and what it recommends is what a run
does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from asyndm.inputs import check_call
from asyndm.models import load
from evaluation.choices import CONF
from experiments.engine.identity import ADVICE
from experiments.engine.plan import make_plan
from experiments.engine.registration import register
from tests.lab import Lab
from tests.library.single_file import save_single_file
from tests.pipelines.registry import PIPELINES

CLASSES = {
    "sd15": "sd",
    "sd21_base": "sd",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "sd35_medium": "sd35",
    "sd35_large": "sd35",
    "flux_dev": "flux",
    "flux_schnell": "flux_schnell",
    "pixart_sigma": "pixart_dpm",
    "pixart_sigma_512": "pixart_dpm",
    "sana": "sana_dpm",
    "sana_512": "sana_dpm",
    "qwen_image": "qwen",
    "flux2_dev": "flux2",
    "flux2_klein_4b": "flux2_klein",
    "z_image_turbo": "zimage",
    "chroma_hd": "chroma",
    "auraflow": "auraflow",
    "cogview4": "cogview4",
    "lumina2": "lumina2",
    "hunyuandit": "hunyuandit",
}
"""Of each real model the tiny pipeline of its class."""
OTHERS = {"folder", "shapes", "shapes_mixed"}


def compose_config(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["prompt_set=animal_activity", "metric=none", *overrides])


def test_every_model_is_known_here() -> None:
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} == {*CLASSES, *OTHERS}


@pytest.mark.parametrize("name", CLASSES)
def test_a_model_recommends_what_its_pipeline_takes(name: str) -> None:
    config = compose_config(f"model={name}", "model.path=a/b")
    model, pipe = config.model, PIPELINES[CLASSES[name]].build()
    check_call(pipe, model.num_inference_steps, "pil", model.pipeline_arguments or {})
    parameters = inspect.signature(type(pipe).__call__).parameters
    assert model.guidance_scale is None or "guidance_scale" in parameters
    scheduler = pipe.scheduler.config
    flow = "FlowMatch" in type(pipe.scheduler).__name__ or scheduler.get("use_flow_sigmas", False)
    assert model.eta == (0 if flow else 1)


@pytest.mark.parametrize("name", CLASSES)
def test_a_run_does_what_its_model_recommends_unless_told_otherwise(name: str) -> None:
    words = [f"model={name}", "model.path=a/b", "device=cpu", "limit=1"]
    config = compose_config(*words)
    model, identity = config.model, make_plan(config).identity
    assert (
        identity["num_inference_steps"] == model.num_inference_steps
        and identity["eta"] == model.eta
    )
    assert identity["guidance"].get("guidance_scale") == model.guidance_scale
    assert identity["pipeline_arguments"] == (model.pipeline_arguments or {})
    assert not {*ADVICE} & {*identity["model"]}
    told = make_plan(
        compose_config(
            *words,
            "num_inference_steps=3",
            "eta=0.5",
            "guidance.guidance_scale=2",
            "pipeline_arguments={a: 1}",
        )
    ).identity
    assert (told["num_inference_steps"], told["eta"], told["guidance"]["guidance_scale"]) == (
        3,
        0.5,
        2,
    )
    assert told["pipeline_arguments"] == {**(model.pipeline_arguments or {}), "a": 1}


@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_that_a_model_asks_for_is_refused_on_a_cpu_in_one_line(
    name: str, lab: Lab
) -> None:
    asks = compose_config(f"model={name}", "model.path=a/b").model.dtype
    result = lab(f"model={name}", "model.path=a/b")
    (line,) = result.lines
    assert result.status == 1
    half = "model.dtype=bfloat16 needs a GPU: on the CPU use dtype=float32 or auto"
    assert (
        half in line
        if asks == "bfloat16"
        else f"model={name}: a/b is not in the local cache" in line
    )
    (line,) = lab(f"model={name}", "model.path=a/b", "model.dtype=float32").lines
    assert f"model={name}: a/b is not in the local cache" in line


def test_a_single_file_runs_and_its_absence_is_told(lab: Lab, tmp_path: Path, pipe: Any) -> None:
    file = tmp_path / "model.safetensors"
    save_single_file(load(lab.pipeline, device="cpu"), file)
    result = lab(f"model.path={file}", f"model.config={lab.pipeline}", "limit=1")
    assert result.status == 0, result.error
    assert len(list((lab.only_run() / "images").iterdir())) == 1
    missing = lab(
        f"model.path={tmp_path}/absent.safetensors", f"model.config={lab.pipeline}", "limit=1"
    )
    assert missing.status == 1 and "absent.safetensors" in missing.lines[0]


def test_memory_is_not_saved_on_a_cpu(lab: Lab) -> None:
    result = lab("model.offload=model", "limit=1")
    assert result.status == 1
    assert "offload=model moves weights between a GPU and the CPU" in result.lines[-1]
