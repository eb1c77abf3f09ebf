"""Of every family of networks: what a guidance is handed is what the pipeline combines, in each
evaluation, and what does not go together is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import asyndm
from asyndm import DynamicMask, NoMask, UserError
from asyndm.guidance import (
    APG,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    Guided,
    Outputs,
    ZSampling,
)
from asyndm.guidance.checks import name_scale
from asyndm.guidance.moment import Moment
from asyndm.solvers import DDIM, Heun, Solver
from tests.library.networks.cases import build
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import PROMPT

SCALE = 4.0
OFF: Mapping[str, dict[str, Any]] = {"lumina2": {"cfg_normalization": False}}
"""What keeps a pipeline from rescaling what it combines."""
FAMILIES = [
    *("sd", "sdxl", "sd3", "flux", "pixart", "sana", "flux2_klein", "chroma", "auraflow"),
    *("cogview4", "lumina2", "zimage", "hidream", "hunyuandit"),
]
NINE = [*FAMILIES, "sd_inpaint_nine", "sdxl_controlnet", "flux_inpaint"]
each = pytest.mark.parametrize("name", FAMILIES)


def sample(name: str, **settings: Any) -> Tensor:
    """Latents of two steps of a tiny pipeline."""
    tiny, pipe = PIPELINES[name], build(name)
    size = {"height": tiny.size[0], "width": tiny.size[1]} if tiny.sized else {}
    call = {"num_inference_steps": 2, "output_type": "latent", "seed": 3, "eta": 0.0}
    call |= {"subjects": ["red dog", "rabbit"], name_scale(pipe): SCALE}
    if name_scale(pipe) == "true_cfg_scale":
        call["negative_prompt"] = "a cat"
    made: Tensor = asyndm.sample(
        pipe, PROMPT, **{**call, **size, **tiny.arguments, **OFF.get(name, {}), **settings}
    )
    return made


@dataclass(frozen=True)
class Again(Guidance):
    """The pipeline's own combination, made anew of its rows, and each step evaluated anew."""

    needs_uncond = True
    evaluates_more = True

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        assert outputs.uncond is not None
        own = outputs.uncond + moment.guidance_scale * outputs.difference
        torch.testing.assert_close(own, outputs.guided, rtol=1e-4, atol=1e-4)
        return Guided(outputs.guided)

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        outputs = moment.evaluate(x)
        torch.testing.assert_close(outputs.guided, guided.output, rtol=1e-4, atol=1e-4)
        for scale, row in ((0.0, outputs.uncond), (1.0, outputs.cond)):
            alone = moment.evaluate_at_scale(x, scale)
            torch.testing.assert_close(alone, row, rtol=1e-4, atol=1e-4)
        return moment.move(x, guided)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mask", [NoMask(), DynamicMask()], ids=lambda mask: mask.name)
def test_rows_are_what_the_pipeline_combines_in_every_evaluation(
    name: str, mask: asyndm.Mask
) -> None:
    """To the bit, since the step is made with the first."""
    made = sample(name, guidance=Again(), mask=mask)
    assert torch.equal(made, sample(name, mask=mask))


@pytest.mark.parametrize("name", ["sd_inpaint", "sd_inpaint_nine", "flux_inpaint", "sdxl_refiner"])
def test_so_they_are_where_pictures_are_changed(name: str) -> None:
    assert torch.equal(sample(name, guidance=Again()), sample(name))
