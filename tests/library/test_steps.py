from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.errors import UserError
from asyndm.steps import PREDICTION_TYPES, AlphaTable, Prediction, ddim_step
from tests.conftest import SD_SCHEDULER

SHAPE = (2, 4, 6, 5)


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"clip_sample": True, "clip_sample_range": 0.7},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
        {"set_alpha_to_one": True, "steps_offset": 0},
    ],
    ids=["plain", "clipped", "thresholded", "clean end at one"],
)
def test_one_level_everywhere_is_the_schedulers_own_step(
    prediction_type: str, eta: float, extra: dict[str, Any]
) -> None:
    scheduler = DDIMScheduler(**{**SD_SCHEDULER, **extra, "prediction_type": prediction_type})
    scheduler.set_timesteps(10)
    alphas, prediction = AlphaTable.from_scheduler(scheduler), Prediction.from_config(scheduler.config)
    x, output, z = normal(0), normal(1), normal(2)
    for t in scheduler.timesteps.tolist():
        a = alphas.at(torch.full((2, 6, 5), float(t)))
        s = alphas.at(torch.full((2, 6, 5), t - 100.0)) if t >= 100 else alphas.clean
        noise = z if eta > 0 else None
        ours, x0 = ddim_step(x, output, a, s, eta=eta, noise=noise, prediction=prediction)
        theirs = scheduler.step(output, t, x, eta=eta, variance_noise=noise)
        assert torch.allclose(ours, theirs.prev_sample, rtol=1e-5, atol=2e-6)
        assert torch.allclose(x0, theirs.pred_original_sample, rtol=1e-5, atol=2e-6)


@settings(max_examples=60)
@given(
    prediction=st.builds(
        Prediction,
        st.sampled_from(PREDICTION_TYPES),
        st.sampled_from([None, 1.0]),
        st.sampled_from([None, (0.9, 2.0)]),
    ),
    eta=st.floats(0, 1),
    zero_snr=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_pixel_whose_level_stays_does_not_change(
    prediction: Prediction, eta: float, zero_snr: bool, seed: int
) -> None:
    alphas = AlphaTable.from_scheduler(DDIMScheduler(**SD_SCHEDULER, rescale_betas_zero_snr=zero_snr))
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(100, 1000, (2, 6, 5), generator=generator).double()
    t[0, 0, 0] = 999
    stays = torch.rand(t.shape, generator=generator) < 0.5
    t_next = torch.where(stays, t, t - 100)
    x = normal(1)
    following, _ = ddim_step(
        x, normal(2), alphas.at(t), alphas.at(t_next), eta=eta, noise=normal(3), prediction=prediction
    )
    kept = stays[:, None].expand_as(x)
    assert torch.equal(following[kept], x[kept])
    assert torch.isfinite(following).all()
    assert (following[~kept] != x[~kept]).float().mean() > 0.99


def test_a_pixel_does_not_depend_on_its_neighbours_levels() -> None:
    alphas = AlphaTable.from_scheduler(DDIMScheduler(**SD_SCHEDULER))
    x, output, z = normal(0), normal(1), normal(2)
    t = torch.randint(200, 1000, (2, 6, 5), generator=torch.Generator().manual_seed(4)).double()
    mixed, _ = ddim_step(x, output, alphas.at(t), alphas.at(t - 150), eta=1.0, noise=z)
    for b, i, j in [(0, 0, 0), (1, 3, 2), (1, 5, 4)]:
        level = torch.full_like(t, float(t[b, i, j]))
        alone, _ = ddim_step(x, output, alphas.at(level), alphas.at(level - 150), eta=1.0, noise=z)
        assert torch.equal(mixed[b, :, i, j], alone[b, :, i, j])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_zero_terminal_snr_is_safe(prediction_type: str) -> None:
    alphas = AlphaTable.from_scheduler(DDIMScheduler(**SD_SCHEDULER, rescale_betas_zero_snr=True))
    assert alphas.alphas[-1] == 0
    a, s = alphas.at(torch.full((2, 6, 5), 999.0)), alphas.at(torch.full((2, 6, 5), 900.0))
    x, output = normal(0), normal(1)
    following, x0 = ddim_step(
        x, output, a, s, eta=1.0, noise=normal(2), prediction=Prediction(prediction_type)
    )
    assert torch.isfinite(following).all()
    expected = {"epsilon": torch.zeros(SHAPE), "v_prediction": -output, "sample": output}
    assert torch.equal(x0, expected[prediction_type])


def test_timesteps_are_rounded_and_kept_inside_the_table() -> None:
    alphas = AlphaTable.from_scheduler(DDIMScheduler(**SD_SCHEDULER))
    t = torch.tensor([[[-3.0, 0.4, 0.6, 998.6, 1000.6]]])
    assert alphas.index(t).tolist() == [[[0, 0, 1, 999, 999]]]


def test_an_unknown_prediction_type_and_missing_noise_are_refused() -> None:
    with pytest.raises(UserError, match="prediction_type 'flow'"):
        Prediction("flow")
    a = torch.full((2, 1, 6, 5), 0.5)
    with pytest.raises(UserError, match="noise is needed"):
        ddim_step(normal(0), normal(1), a, a + 0.1, eta=0.5)
