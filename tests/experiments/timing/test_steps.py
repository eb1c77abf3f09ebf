from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asyndm.networks import find_denoiser
from experiments.timing.cases import NETWORKS
from experiments.timing.steps import (
    KINDS,
    LEVELS,
    OURS,
    STOCK,
    Ratio,
    Timing,
    build_session,
    compare,
    make_latents,
    time_call,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_both_kinds_of_step_are_timed_on_the_same_weights(name: str) -> None:
    case = replace(NETWORKS[name]("tiny", CPU, torch.float32), side=16, batch=2)
    levels: list[int] = []

    def count(record: object) -> None:
        levels.extend(len(own.unique()) for own in record.timesteps)  # type: ignore[attr-defined]

    session = build_session(case)
    session.scheduler.callback = count
    with torch.no_grad(), session.open():
        time_call(case, 4, CPU, Timing())
    assert max(levels) == LEVELS and len(levels) == 4 * 2
    timings = compare(case, CPU, 1, 3)
    assert list(timings) == [STOCK, OURS]
    assert all(len(each.seconds) == 2 and min(each.seconds) > 0 for each in timings.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_synchronous_call_makes_what_the_stock_pipeline_makes(name: str) -> None:
    case = replace(NETWORKS[name]("tiny", CPU, torch.float32), side=16)
    stock = make_latents(case, 3)
    with build_session(case, KINDS["DM"]).open():
        assert torch.allclose(make_latents(case, 3), stock, atol=1e-4)
    with build_session(case).open():
        assert not torch.allclose(make_latents(case, 3), stock, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unet", 865_910_724),
        ("sdxl", 2_567_463_684),
        ("sd35", 2_243_171_520),
        ("flux", 11_901_408_320),
    ],
)
def test_full_sizes_are_the_published_ones(name: str, parameters: int) -> None:
    case = NETWORKS[name]("full", torch.device("meta"), torch.bfloat16)
    network = find_denoiser(case.pipe)
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert {each.dtype for each in network.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_a_ratio_is_that_of_medians_with_the_spread_of_pairs() -> None:
    ours, stock = Timing([2.0, 3.0, 4.0]), Timing([1.0, 2.0, 4.0])
    ratio = Ratio.of(ours, stock)
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.0, 2.0)
