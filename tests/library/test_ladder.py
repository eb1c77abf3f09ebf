from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyndm.errors import UserError
from asyndm.ladder import Ladder, copy_scheduler, is_flow
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.steps import Prediction

# diffusers with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
BETAS = {name: SD_SCHEDULER[name] for name in ("beta_start", "beta_end", "beta_schedule")}
ROUNDING = 1e-6
"""Of a level, float32."""


@dataclass(frozen=True)
class Case:
    """A scheduler's class, its config, and what its ``set_timesteps`` is given besides N."""

    kind: type[Any]
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    steps: int | None = 20

    def build(self) -> Any:
        return self.set(self.kind(**self.config))

    def set(self, scheduler: Any) -> Any:
        steps = {} if self.steps is None else {"num_inference_steps": self.steps}
        scheduler.set_timesteps(**steps, **self.arguments)
        return scheduler


def make_spaced(kind: type[Any], spacing: str, **config: Any) -> Case:
    return Case(kind, {**BETAS, "timestep_spacing": spacing, **config})


WHOLE = {
    "DDIM leading": Case(DDIMScheduler, SD_SCHEDULER),
    "DDIM leading, N not dividing T": Case(DDIMScheduler, SD_SCHEDULER, steps=30),
    "DDIM trailing": make_spaced(DDIMScheduler, "trailing"),
    "DDIM trailing, N not dividing T": Case(
        DDIMScheduler, {**BETAS, "timestep_spacing": "trailing"}, steps=30
    ),
    "DDIM linspace": make_spaced(DDIMScheduler, "linspace"),
    "DDIM zero terminal SNR": make_spaced(DDIMScheduler, "trailing", rescale_betas_zero_snr=True),
    "DDPM": Case(DDPMScheduler, BETAS),
    "Euler leading": make_spaced(EulerDiscreteScheduler, "leading", steps_offset=1),
    "Euler trailing": make_spaced(EulerDiscreteScheduler, "trailing"),
    "DPM++ default": Case(DPMSolverMultistepScheduler, BETAS),
    "DPM++ leading": make_spaced(DPMSolverMultistepScheduler, "leading", steps_offset=1),
    "DPM++ to the least sigma": Case(
        DPMSolverMultistepScheduler, {**BETAS, "final_sigmas_type": "sigma_min"}
    ),
    "UniPC": Case(UniPCMultistepScheduler, BETAS),
}
"""Models that know whole timesteps, at levels of their table."""
BETWEEN = {
    "Euler linspace": make_spaced(EulerDiscreteScheduler, "linspace"),
    "Euler Karras": make_spaced(EulerDiscreteScheduler, "leading", use_karras_sigmas=True),
    "Euler exponential": make_spaced(
        EulerDiscreteScheduler, "trailing", use_exponential_sigmas=True
    ),
    "Euler ancestral": Case(EulerAncestralDiscreteScheduler, BETAS),
    "DPM++ Karras": Case(DPMSolverMultistepScheduler, {**BETAS, "use_karras_sigmas": True}),
    "DPM++ Karras, 50 steps": Case(
        DPMSolverMultistepScheduler, {**BETAS, "use_karras_sigmas": True}, steps=50
    ),
    "UniPC Karras": Case(UniPCMultistepScheduler, {**BETAS, "use_karras_sigmas": True}),
}
"""Levels between those of the table."""
FLOWS = {
    "flow": Case(FlowMatchEulerDiscreteScheduler),
    "flow, static shift": Case(FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    "flow, shift by size": Case(
        FlowMatchEulerDiscreteScheduler, {"use_dynamic_shifting": True}, {"mu": 0.9}
    ),
    "flow, last level shifted": Case(
        FlowMatchEulerDiscreteScheduler,
        {"use_dynamic_shifting": True, "shift_terminal": 0.02},
        {"mu": 0.9},
    ),
    "flow, own sigmas": Case(
        FlowMatchEulerDiscreteScheduler,
        {"shift": 2.0},
        {"sigmas": [1.0, 0.8, 0.5, 0.1]},
        steps=None,
    ),
    "flow, Karras": Case(FlowMatchEulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "DPM++ of a flow": Case(
        DPMSolverMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
}
ALL = WHOLE | BETWEEN | FLOWS


@cache
def make_ladder(name: str) -> Ladder:
    return Ladder(ALL[name].build())


def make_rungs(ladder: Ladder) -> Tensor:
    return torch.arange(len(ladder) - 1, -1, -1, dtype=torch.float64)


def assert_variance_preserving(alpha: Tensor, sigma: Tensor) -> None:
    assert torch.allclose(
        alpha.double() ** 2 + sigma.double() ** 2, torch.ones(()).double(), atol=1e-6
    )


@pytest.mark.parametrize("name", ALL)
def test_each_rung_is_told_as_the_scheduler_tells_it(name: str) -> None:
    scheduler = ALL[name].build()
    ladder = Ladder(scheduler)
    assert len(ladder) == len(scheduler.timesteps)
    assert torch.equal(ladder.network_timestep(make_rungs(ladder)), scheduler.timesteps.double())
    assert torch.equal(ladder.timestep(make_rungs(ladder)), scheduler.timesteps.double())


@pytest.mark.parametrize("name", WHOLE)
def test_each_rung_has_the_level_of_the_table(name: str) -> None:
    scheduler = WHOLE[name].build()
    level = Ladder(scheduler).level(make_rungs(Ladder(scheduler)))
    table = scheduler.alphas_cumprod[scheduler.timesteps.long()]
    assert torch.equal(level.alpha, table.sqrt()) and torch.equal(level.sigma, (1 - table).sqrt())


@pytest.mark.parametrize(
    "name", [name for name in WHOLE if not name.startswith("DD")] + list(BETWEEN)
)
def test_each_rung_has_the_level_of_the_schedulers_sigmas(name: str) -> None:
    scheduler = ALL[name].build()
    ladder = Ladder(scheduler)
    level = ladder.level(make_rungs(ladder))
    assert_variance_preserving(level.alpha, level.sigma)
    own = scheduler.sigmas.double()
    assert torch.allclose(
        level.sigma.double() / level.alpha.double(), own[:-1], rtol=2 * ROUNDING, atol=0
    )
    assert torch.allclose(
        ladder.clean.sigma.double() / ladder.clean.alpha, own[-1], rtol=2 * ROUNDING
    )


@pytest.mark.parametrize("name", FLOWS)
def test_each_rung_of_a_flow_has_the_schedulers_sigma(name: str) -> None:
    scheduler = FLOWS[name].build()
    assert is_flow(scheduler)
    ladder = Ladder(scheduler)
    level = ladder.level(make_rungs(ladder))
    assert torch.equal(level.sigma, scheduler.sigmas[:-1]) and torch.equal(
        level.alpha, 1 - level.sigma
    )
    assert ladder.clean.sigma == scheduler.sigmas[-1] == 0 and ladder.clean.alpha == 1


@pytest.mark.parametrize("to_one", [True, False])
def test_the_clean_end_is_the_schedulers_own(to_one: bool) -> None:
    scheduler = Case(DDIMScheduler, {**SD_SCHEDULER, "set_alpha_to_one": to_one}).build()
    alphas = torch.ones(()) if to_one else scheduler.alphas_cumprod[0]
    clean = Ladder(scheduler).clean
    assert clean.alpha == alphas.sqrt() and clean.sigma == (1 - alphas).sqrt()


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_between_its_rungs_the_ladder_rises(name: str, ahead: bool) -> None:
    scheduler = ALL[name].build()
    ladder = Ladder(scheduler, ahead=ahead)
    u = torch.linspace(0, len(ladder), 5001, dtype=torch.float64)
    level, told = ladder.level(u), ladder.network_timestep(u)
    assert (told.diff() >= 0).all() and (ladder.timestep(u).diff() >= 0).all()
    assert (level.sigma.diff() >= -ROUNDING).all() and (level.alpha.diff() <= ROUNDING).all()
    if name in BETWEEN or name in FLOWS:
        inside = u < len(ladder) - 1
        assert level.sigma[inside].unique().numel() > 0.9 * int(inside.sum())


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20)
@given(rung=st.integers(0, 19), off=st.floats(-9e-10, 9e-10))
def test_a_place_next_to_a_rung_is_the_rung(name: str, rung: int, off: float) -> None:
    ladder = make_ladder(name)
    rung = min(rung, len(ladder) - 1)
    exact, near = torch.tensor([float(rung)]).double(), torch.tensor([rung + off]).double()
    assert torch.equal(ladder.network_timestep(near), ladder.network_timestep(exact))
    assert torch.equal(ladder.level(near).sigma, ladder.level(exact).sigma)


def test_whole_timesteps_are_rounded_and_their_levels_looked_up() -> None:
    scheduler = Case(DDIMScheduler, SD_SCHEDULER).build()
    ladder = Ladder(scheduler)
    u = torch.tensor([0.0, 0.011, 0.009, 3.5, 18.999]).double()
    assert torch.allclose(ladder.timestep(u), 1 + 50 * u, rtol=0, atol=1e-9)
    assert ladder.network_timestep(u).tolist() == [1, 2, 1, 176, 951]
    assert torch.equal(ladder.level(u).alpha, scheduler.alphas_cumprod[[1, 2, 1, 176, 951]].sqrt())


def test_levels_between_rungs_follow_the_timestep_as_in_the_table() -> None:
    """Linear in log(sigma/alpha): Karras' timesteps are where the table has its levels."""
    scheduler = BETWEEN["Euler Karras"].build()
    ladder = Ladder(scheduler)
    u = torch.linspace(0, 19, 200, dtype=torch.float64)
    t = ladder.timestep(u)
    alphas = scheduler.alphas_cumprod.double()
    low = t.floor().long().clamp(max=998)
    logs = (((1 - alphas) / alphas).log() / 2)[torch.stack([low, low + 1])]
    expected = torch.lerp(logs[0], logs[1], t - low).exp()
    level = ladder.level(u)
    assert torch.allclose(level.sigma.double() / level.alpha.double(), expected, rtol=1e-4)


def test_a_flow_is_linear_in_sigma_between_rungs() -> None:
    scheduler = FLOWS["flow, static shift"].build()
    ladder = Ladder(scheduler)
    for above, below in zip(range(19, 0, -1), range(18, -1, -1), strict=True):
        pair = scheduler.sigmas[19 - above].double(), scheduler.sigmas[19 - below].double()
        level = ladder.level(torch.tensor([below + 0.25]).double())
        assert level.sigma.item() == pytest.approx(
            float(pair[1] + 0.25 * (pair[0] - pair[1])), abs=1e-7
        )
    u = torch.linspace(0, 19, 100, dtype=torch.float64)
    assert torch.allclose(
        ladder.network_timestep(u) / 1000, ladder.level(u).sigma.double(), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize(
    "name", ["DDIM leading", "DDIM leading, N not dividing T", "Euler leading", "DPM++ leading"]
)
def test_above_the_first_rung_the_ladder_goes_on_with_its_first_slope(name: str) -> None:
    scheduler = WHOLE[name].build()
    ladder = Ladder(scheduler, ahead=True)
    first, second = scheduler.timesteps[:2].double()
    above = torch.tensor([0.0, 0.25, 0.5, 1.0]).double()
    timestep = ladder.timestep(len(ladder) - 1 + above)
    assert torch.allclose(timestep, first + above * (first - second), rtol=0, atol=1e-9)
    told = ladder.network_timestep(len(ladder) - 1 + above)
    assert torch.equal(told, timestep.round().clamp(max=999))
    table = scheduler.alphas_cumprod[told.long()]
    assert torch.equal(ladder.level(len(ladder) - 1 + above).alpha, table.sqrt())


def test_above_the_first_rung_there_is_nothing_on_other_ladders() -> None:
    for name, case in ALL.items():
        ladder = Ladder(case.build())
        top, over = (torch.tensor([len(ladder) - 1 + above]).double() for above in (0.0, 0.7))
        assert torch.equal(ladder.network_timestep(over), ladder.network_timestep(top)), name
        assert torch.equal(ladder.level(over).sigma, ladder.level(top).sigma), name


@pytest.mark.parametrize(
    "kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler]
)
def test_no_network_is_told_a_timestep_beyond_its_training(kind: type[Any]) -> None:
    case = Case(
        kind, {**BETAS, "timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": True}
    )
    ladder = Ladder(case.build(), ahead=True)
    u = torch.linspace(0, 20, 400, dtype=torch.float64)
    assert ladder.network_timestep(u).min() >= 0 and ladder.network_timestep(u).max() <= 999


def test_one_step_is_one_rung() -> None:
    # A shifted last level is NaN there in itself.
    for name in ALL.keys() - {"flow, own sigmas", "flow, last level shifted"}:
        scheduler = replace(ALL[name], steps=1).build()
        for ahead in (False, True):
            ladder = Ladder(scheduler, ahead=ahead)
            u = torch.tensor([0.0, 1.0]).double()
            assert torch.equal(
                ladder.network_timestep(u), scheduler.timesteps.double().expand(2)
            ), name


@pytest.mark.parametrize("name", ALL)
def test_a_copy_has_the_same_ladder_and_the_given_one_is_left_alone(name: str) -> None:
    case = ALL[name]
    given = case.build()
    config, state = dict(given.config), deepcopy(vars(given))
    own = copy_scheduler(given)
    assert own is not given and type(own) is case.kind
    case.set(own)
    assert torch.equal(own.timesteps, given.timesteps)
    ours, theirs = (
        Ladder(scheduler).level(make_rungs(Ladder(given))) for scheduler in (own, given)
    )
    assert torch.equal(ours.sigma, theirs.sigma)
    assert dict(given.config) == config and vars(given).keys() == state.keys()
    for key, value in vars(given).items():
        assert (
            torch.equal(value, state[key]) if isinstance(value, Tensor) else value == state[key]
        ), key


@pytest.mark.parametrize("kind", [PNDMScheduler, HeunDiscreteScheduler])
def test_schedulers_that_evaluate_twice_become_ddim_of_the_same_config(kind: type[Any]) -> None:
    stated = {"prediction_type": "v_prediction", "timestep_spacing": "leading", "steps_offset": 1}
    for config in ({}, {**BETAS, **stated}):
        given = kind(**config)
        own = copy_scheduler(given)
        assert type(own) is DDIMScheduler
        for setting in ("timestep_spacing", "steps_offset", "prediction_type", "set_alpha_to_one"):
            if setting in given.config:
                assert own.config[setting] == given.config[setting], setting
        assert torch.allclose(own.alphas_cumprod, given.alphas_cumprod)
        assert Prediction.of(own) == Prediction(given.config.prediction_type)
        own.set_timesteps(10)
        assert len(own.timesteps) == 10


def test_a_checkpoint_that_does_not_speak_of_clipping_is_not_clipped() -> None:
    """As every Stable Diffusion checkpoint's PNDM; one that does means it."""
    own = copy_scheduler(PNDMScheduler(**BETAS, skip_prk_steps=True))
    assert Prediction.of(own).clip_range is None
    own = copy_scheduler(PNDMScheduler.from_config({**BETAS, "clip_sample": True}))
    assert Prediction.of(own).clip_range == 1


def test_heun_of_a_flow_becomes_euler_of_the_same_shift() -> None:
    own = copy_scheduler(FlowMatchHeunDiscreteScheduler(shift=3.0))
    assert type(own) is FlowMatchEulerDiscreteScheduler and own.shift == 3


def test_a_shift_that_was_set_later_is_kept() -> None:
    given = FlowMatchEulerDiscreteScheduler(shift=3.0)
    given.set_shift(5.0)
    own = copy_scheduler(given)
    for scheduler in (own, given):
        scheduler.set_timesteps(6)
    assert torch.equal(own.sigmas, given.sigmas)


@pytest.mark.parametrize(
    "kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler, IPNDMScheduler]
)
def test_other_kinds_of_noise_levels_are_refused_in_one_line(kind: type[Any]) -> None:
    with pytest.raises(
        UserError, match=f"{kind.__name__} has no noise levels of a diffusion model"
    ) as caught:
        copy_scheduler(kind())
    assert "\n" not in str(caught.value)
