"""Every builder's pipeline paints: what was asked for, the same twice, and something else for
another prompt."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipelines.registry import PIPELINES


@pytest.mark.parametrize("name", PIPELINES)
def test_pictures(name: str) -> None:
    tiny = PIPELINES[name]
    pipe = tiny.build()
    (pixels,) = tiny.run(pipe, output_type="np")
    assert pixels.shape == (*tiny.size, 3)
    assert np.isfinite(pixels).all()
    assert pixels.std() > 0.05
    (again,) = tiny.run(pipe)
    assert (np.asarray(again) == (pixels * 255).round()).all()
    (other,) = tiny.run(pipe, "the blue cat", output_type="np")
    assert np.abs(other - pixels).mean() > 0.01


def test_refiner_takes_over() -> None:
    base, refiner = PIPELINES["sdxl"], PIPELINES["sdxl_refiner"]
    latents = base.run(base.build(), denoising_end=0.8, output_type="latent")
    (pixels,) = refiner.run(refiner.build(), image=latents, denoising_start=0.8, output_type="np")
    assert pixels.shape == (*refiner.size, 3)
    assert np.isfinite(pixels).all()
