"""The network with a timestep for each token is the slow computation of it, token by token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import make_unet
from tests.library.networks.oracles import (
    SD3_CONFIGS,
    flux_difference,
    pixart_difference,
    sana_difference,
    sd3_difference,
    unet_difference,
)
from tests.pipelines.sdxl import make_unet as make_sdxl_unet

ROUNDING = 1e-9
UNET_ROUNDING = 1e-12


@pytest.mark.parametrize("config", SD3_CONFIGS, ids=["3", "3.5"])
def test_sd3_token_by_token(config: dict[str, Any]) -> None:
    assert sd3_difference(config) <= ROUNDING


@pytest.mark.parametrize("guided", [True, False], ids=["dev", "schnell"])
def test_flux_token_by_token(guided: bool) -> None:
    assert flux_difference(guided) <= ROUNDING


@pytest.mark.parametrize("sized", [False, True], ids=["sigma", "alpha"])
def test_pixart_token_by_token(sized: bool) -> None:
    assert pixart_difference(sized) <= ROUNDING


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "sprint"])
def test_sana_token_by_token(guided: bool) -> None:
    assert sana_difference(guided) <= ROUNDING


@pytest.mark.parametrize("make", [make_unet, make_sdxl_unet], ids=["sd", "sdxl"])
def test_unets_pixel_by_pixel(make: Any) -> None:
    assert unet_difference(make) <= UNET_ROUNDING
