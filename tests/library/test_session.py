"""A call leaves nothing behind in the pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import PNDMScheduler

from asyndm import StepRecord
from tests.conftest import make_pipeline
from tests.library.test_sampler import METHODS, sample_latents
from tests.library.traces import find_traces


def test_the_pipeline_is_untouched_even_by_an_exception() -> None:
    pipe = make_pipeline()
    pipe.scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )

    def stock() -> torch.Tensor:
        made: torch.Tensor = pipe(
            "a dog",
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        return made

    def stop(record: StepRecord) -> None:
        raise RuntimeError("on purpose")

    expected = stock()
    components, config = dict(pipe.components), dict(pipe.scheduler.config)
    before = {name: find_traces(getattr(pipe, name)) for name in ("unet", "vae", "text_encoder")}
    for mask in METHODS:
        sample_latents(pipe, mask=mask)
        with pytest.raises(RuntimeError, match="on purpose"):
            sample_latents(pipe, mask=mask, callback=stop)
    assert {name: find_traces(getattr(pipe, name)) for name in before} == before
    assert all(pipe.components[name] is component for name, component in components.items())
    assert dict(pipe.scheduler.config) == config
    assert torch.equal(stock(), expected)
