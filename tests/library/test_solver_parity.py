"""At one level everywhere a solver is the stock scheduler of its name, on that one's own ladder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from asyndm.ladder import Level
from asyndm.shapes.model import SD_SCHEDULER
from asyndm.solvers import DDIM, DPMSolverPlusPlus2M, Euler, Heun, Solver
from asyndm.steps import FLOW, Prediction
from tests.docs.pages import DOCS, find_blocks
from tests.library.driving import (
    SHAPE,
    TABLE,
    draw_normal,
    drive,
    drive_stock,
    list_levels,
    make_network,
)

STOCK_2M = DPMSolverPlusPlus2M(max_ratio=None)


def make_dpm(steps: int, **config: Any) -> DPMSolverMultistepScheduler:
    stock = DPMSolverMultistepScheduler(**TABLE, **{"timestep_spacing": "leading", **config})
    stock.set_timesteps(steps)
    return stock


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("clean", [False, True], ids=["", "clean end at one"])
def test_ddim_is_stock_ddim(steps: int, prediction_type: str, clean: bool) -> None:
    config = {**SD_SCHEDULER, "set_alpha_to_one": clean, "prediction_type": prediction_type}
    stock, network = DDIMScheduler(**config), make_network(prediction_type)
    stock.set_timesteps(steps)
    levels = list_levels(stock)
    ours = drive(DDIM(), draw_normal(0), levels, network, prediction=Prediction(prediction_type))
    theirs = drive_stock(stock, draw_normal(0), levels, network)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("spacing", [{}, {"use_karras_sigmas": True}], ids=["", "karras"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_2m_without_a_limit_is_stock_2m_and_its_sde_form(
    steps: int, final: str, spacing: dict[str, Any], eta: float
) -> None:
    kind = "sde-dpmsolver++" if eta else "dpmsolver++"
    stock = make_dpm(steps, algorithm_type=kind, final_sigmas_type=final, **spacing)
    levels, network = list_levels(stock), make_network("epsilon")
    draws = [draw_normal(1 + i) for i in range(steps)]
    ours = drive(STOCK_2M, draw_normal(0), levels, network, eta=eta, draws=draws)
    theirs = drive_stock(stock, draw_normal(0), levels, network, variance_noise=draws)
    assert (ours - theirs).abs().max() < 1e-4


def test_ddim_with_noise_is_stock_sde_of_first_order() -> None:
    stock = make_dpm(20, algorithm_type="sde-dpmsolver++", solver_order=1)
    levels, network = list_levels(stock), make_network("epsilon")
    draws = [draw_normal(1 + i) for i in range(20)]
    ours = drive(DDIM(), draw_normal(0), levels, network, eta=1.0, draws=draws)
    theirs = drive_stock(stock, draw_normal(0), levels, network, variance_noise=draws)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_ddim_is_stock_euler_and_with_noise_its_ancestral_form(steps: int, kind: Any) -> None:
    stock, network = kind(**TABLE, timestep_spacing="leading"), make_network("epsilon")
    stock.set_timesteps(steps)
    levels, eta = list_levels(stock), float(kind is EulerAncestralDiscreteScheduler)
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(SHAPE, generator=generator) for _ in range(steps)]
    ours = drive(DDIM(), draw_normal(0), levels, network, eta=eta, draws=draws)
    again = [torch.Generator().manual_seed(1)] * steps
    theirs = drive_stock(stock, draw_normal(0), levels, network, generator=again)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_2m_is_the_predictor_of_unipc(final: str) -> None:
    """Which takes a last step of first order, as all do to a clean end."""
    stock = UniPCMultistepScheduler(
        **TABLE,
        solver_type="bh2",
        final_sigmas_type=final,
        lower_order_final=final == "zero",
        disable_corrector=list(range(20)),
    )
    stock.set_timesteps(20)
    levels, network = list_levels(stock), make_network("epsilon")
    ours = drive(STOCK_2M, draw_normal(0), levels, network)
    assert (ours - drive_stock(stock, draw_normal(0), levels, network)).abs().max() < 1e-4


@pytest.mark.parametrize("solver", [DDIM(), Euler()], ids=["ddim", "euler"])
def test_of_a_flow_it_is_stock_euler_to_the_bit(solver: Solver) -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(20)
    levels, network = list_levels(stock), make_network(FLOW)
    ours = drive(solver, draw_normal(0), levels, network, prediction=Prediction(FLOW))
    assert torch.equal(ours, drive_stock(stock, draw_normal(0), levels, network))


def test_heun_is_stock_heun() -> None:
    stock = FlowMatchHeunDiscreteScheduler(shift=3.0)
    stock.set_timesteps(20)
    evaluated = [Level(1 - sigma, sigma) for sigma in stock.timesteps / 1000]
    assert len(evaluated) == 2 * 20 - 1
    levels = [evaluated[0], *evaluated[1::2], Level(torch.ones(()), torch.zeros(()))]
    network, calls = make_network(FLOW), []

    def counted(x: Tensor, level: Level) -> Tensor:
        calls.append(level)
        return network(x, level)

    ours = drive(Heun(), draw_normal(0), levels, counted, prediction=Prediction(FLOW))
    assert (ours - drive_stock(stock, draw_normal(0), evaluated, network)).abs().max() < 1e-4
    assert len(calls) == len(evaluated)


def test_the_one_on_the_page_is_stock_lms() -> None:
    """Its class, as printed, in not more than 30 lines of text with its YAML."""
    blocks = [text for _, text in find_blocks(DOCS / "solver.md") if text.startswith("# mine/")]
    lines = [line for text in blocks for line in text.splitlines() if line]
    assert len(blocks) == 2 and len(lines) <= 30
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "lms.py", "exec"), names)
    stock = LMSDiscreteScheduler(**TABLE, timestep_spacing="leading")
    stock.set_timesteps(20)
    levels, network = list_levels(stock), make_network("epsilon")
    ours = drive(names["LMS"](), draw_normal(0), levels, network)
    theirs = drive_stock(stock, draw_normal(0), levels, network, order=[2] * 20)
    assert (ours - theirs).abs().max() < 1e-4
