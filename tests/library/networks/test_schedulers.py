"""Every ladder through ``sample``: DM is the stock pipeline under the stock scheduler, where that
is of first order."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

import asyndm
from asyndm.shapes.model import SD_SCHEDULER
from tests.library.networks.cases import (
    build,
    measure_distance,
    sample_dm,
    sample_ours,
    sample_stock,
)

ROUNDING = 2e-5
"""Solvers written in σ/α, in logarithms or as a posterior mean, against the one formula: 7e-6
measured."""
ZERO = {
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
}
DISCRETE: dict[str, tuple[Any, dict[str, Any], list[float]]] = {
    "ddim leading": (DDIMScheduler, {}, [0.0, 1.0]),
    "ddim trailing": (DDIMScheduler, {"timestep_spacing": "trailing"}, [0.0, 1.0]),
    "ddim to one": (DDIMScheduler, {"set_alpha_to_one": True}, [0.0, 1.0]),
    "zero terminal SNR": (DDIMScheduler, ZERO, [0.0]),
    "euler leading": (EulerDiscreteScheduler, {"timestep_spacing": "leading"}, [0.0]),
    "euler trailing": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}, [0.0]),
    "euler linspace": (EulerDiscreteScheduler, {"timestep_spacing": "linspace"}, [0.0]),
    "euler karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}, [0.0]),
    "ancestral": (EulerAncestralDiscreteScheduler, {"timestep_spacing": "leading"}, [1.0]),
    "dpm++ of order 1": (DPMSolverMultistepScheduler, {"solver_order": 1}, [0.0]),
    "dpm++ of order 1, karras": (
        DPMSolverMultistepScheduler,
        {"use_karras_sigmas": True, "solver_order": 1},
        [0.0],
    ),
    "ddpm": (DDPMScheduler, {"timestep_spacing": "leading"}, [1.0]),
}
SD_EULER = {
    key: value
    for key, value in SD_SCHEDULER.items()
    if key not in ("clip_sample", "set_alpha_to_one")
} | {"timestep_spacing": "leading"}
CALL: dict[str, Any] = {"guidance_scale": 1.0}
TABLE = [(name, eta) for name, (_, _, etas) in DISCRETE.items() for eta in etas]


def set_scheduler(name: str, scheduler: Any) -> Any:
    pipe = copy.copy(build(name))
    pipe.register_modules(scheduler=scheduler)
    return pipe


def list_discrete(name: str) -> Any:
    kind, changes, _ = DISCRETE[name]
    return set_scheduler("sd", kind.from_config({**SD_SCHEDULER, **changes}))


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case[0]}, eta {case[1]:g}")
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_stable_diffusion_under_each_scheduler(case: tuple[str, float], steps: int) -> None:
    name, eta = case
    pipe = list_discrete(name)
    call: dict[str, Any] = {**CALL, "num_inference_steps": steps, "eta": eta}
    expected = sample_stock("sd", pipe, **call)
    assert torch.isfinite(expected).all()
    assert measure_distance(sample_dm("sd", pipe, **call), expected) <= ROUNDING


@pytest.mark.parametrize("name", DISCRETE)
def test_asynchronous_under_each_scheduler(name: str) -> None:
    pipe = list_discrete(name)
    made = sample_ours("sd", pipe, **CALL)
    assert torch.isfinite(made).all()
    assert measure_distance(made, sample_dm("sd", pipe, **CALL)) > 0.01


def test_pndm_is_sampled_as_ddim_of_the_same_config() -> None:
    pndm = set_scheduler("sd", PNDMScheduler.from_config({**SD_SCHEDULER, "skip_prk_steps": True}))
    ddim = set_scheduler(
        "sd", DDIMScheduler.from_config({**pndm.scheduler.config, "clip_sample": False})
    )
    assert torch.equal(
        sample_dm("sd", pndm, num_inference_steps=5),
        sample_stock("sd", ddim, num_inference_steps=5),
    )


FLOWS: dict[str, dict[str, Any]] = {
    "no shift": {},
    "static": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True},
    "dynamic, linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "terminal": {"shift": 3.0, "shift_terminal": 0.1},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_flow_matching_under_each_shift(name: str, flow: str) -> None:
    pipe = set_scheduler(name, FlowMatchEulerDiscreteScheduler(**FLOWS[flow]))
    call: dict[str, Any] = {"num_inference_steps": 5}
    expected = sample_stock(name, pipe, **call)
    assert torch.equal(sample_dm(name, pipe, **call), expected)
    assert measure_distance(sample_ours(name, pipe, **call), expected) > 0.01


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_sigmas_of_ones_own(name: str) -> None:
    call: dict[str, Any] = {"sigmas": [1.0, 0.8, 0.35, 0.1], "num_inference_steps": 4}
    expected = sample_stock(name, **call)
    assert measure_distance(expected, sample_stock(name, num_inference_steps=4)) > 1e-3
    assert torch.equal(sample_dm(name, **call), expected)
    assert measure_distance(sample_ours(name, **call), expected) > 0.01


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize(
    "own", [{"timesteps": [980, 700, 360, 90]}, {"sigmas": [12.0, 4.0, 1.2, 0.3, 0.0]}], ids=str
)
def test_timesteps_of_ones_own(name: str, own: dict[str, Any]) -> None:
    pipe = set_scheduler(name, EulerDiscreteScheduler(**SD_EULER))
    expected = sample_stock(name, pipe, **own)
    assert measure_distance(sample_dm(name, pipe, **own), expected) <= ROUNDING
    kept: list[asyndm.StepRecord] = []
    assert measure_distance(sample_ours(name, pipe, callback=kept.append, **own), expected) > 0.01
    assert len(kept) == 4


def test_a_last_sigma_that_is_not_zero_ends_in_the_stock_schedulers_own_scale() -> None:
    """Euler's latents there are x₀ + σ ε, not α x₀ + σ ε."""
    pipe = set_scheduler("sd", EulerDiscreteScheduler(**SD_EULER))
    own: dict[str, Any] = {"sigmas": [12.0, 4.0, 1.2, 0.5]}
    assert (
        measure_distance(sample_dm("sd", pipe, **own), sample_stock("sd", pipe, **own)) <= ROUNDING
    )


@pytest.mark.parametrize("name", ["pixart_dpm", "sana_dpm"])
def test_solvers_of_second_order_are_those_of_first_order(name: str) -> None:
    pipe = build(name)
    config = {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}
    first = type(pipe.scheduler)(**{**config, "solver_order": 1})
    call: dict[str, Any] = {"num_inference_steps": 5}
    expected = sample_stock(name, set_scheduler(name, first), **call)
    assert measure_distance(sample_dm(name, pipe, **call), expected) <= ROUNDING
    assert measure_distance(sample_ours(name, pipe, **call), expected) > 0.01
