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
from asyndm import DynamicMask, Mask, NoMask, StepRecord, UserError
from asyndm.guidance import APG, CFGPlusPlus, ClassifierFree, Guidance, Guided, Outputs, ZSampling
from asyndm.guidance.checks import name_scale
from asyndm.guidance.moment import Moment
from asyndm.solvers import AB2, DPMSolverPlusPlus2M, Heun, Solver
from tests.library.networks.cases import build
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import PROMPT

SCALE = 4.0
FAMILIES = [
    *("sd", "sdxl", "sd3", "flux", "pixart", "sana", "flux2_klein", "chroma", "auraflow"),
    *("cogview4", "lumina2", "zimage", "hidream", "hunyuandit"),
]
VARIANTS = ["sd_inpaint", "sd_inpaint_nine", "sdxl_refiner", "flux_inpaint", "sd3_img2img"]
OFF: Mapping[str, dict[str, Any]] = {"lumina2": {"cfg_normalization": False}}
"""What keeps a pipeline from rescaling what it combines."""
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def make_call(name: str, **settings: Any) -> dict[str, Any]:
    """Arguments of two steps of a tiny pipeline, with guidance."""
    tiny, scale = PIPELINES[name], name_scale(build(name))
    size = {"height": tiny.size[0], "width": tiny.size[1]} if tiny.sized else {}
    negative = {"negative_prompt": "a cat"} if scale == "true_cfg_scale" else {}
    call = {"num_inference_steps": 2, "output_type": "latent", scale: SCALE, **negative, **size}
    return {**call, **tiny.arguments, **OFF.get(name, {}), **settings}


def sample(name: str, **settings: Any) -> Tensor:
    """Latents of one picture."""
    call = {"subjects": ["red dog", "rabbit"], "seed": 3, "eta": 0.0, **settings}
    made: Tensor = asyndm.sample(build(name), PROMPT, **make_call(name, **call))
    return made


@dataclass(frozen=True)
class Again(Guidance):
    """The pipeline's own combination, compared with that of its rows and of another evaluation."""

    needs_uncond = True
    evaluates_more = True

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        assert outputs.uncond is not None
        own = outputs.uncond + moment.guidance_scale * outputs.difference
        torch.testing.assert_close(own, outputs.guided, **CLOSE)
        return Guided(outputs.guided)

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        again = moment.evaluate(x)
        torch.testing.assert_close(again.guided, guided.output, **CLOSE)
        for scale, row in ((0.0, again.uncond), (1.0, again.cond)):
            torch.testing.assert_close(moment.evaluate_at_scale(x, scale), row, **CLOSE)
        return moment.move(x, guided)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mask", [NoMask(), DynamicMask()], ids=lambda mask: mask.name)
def test_rows_are_what_the_pipeline_combines_in_every_evaluation(name: str, mask: Mask) -> None:
    assert torch.equal(sample(name, guidance=Again(), mask=mask), sample(name, mask=mask))


@dataclass(frozen=True)
class Moved(Again):
    """Again, of another x than the pipeline has."""

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        return 0.9 * x


@pytest.mark.parametrize("name", ["sd_inpaint_nine", "flux", "lumina2", "zimage"])
def test_so_they_are_of_an_x_that_a_guidance_has_moved(name: str) -> None:
    """The rows of both calls, of a pipeline that makes two."""
    assert not torch.equal(sample(name, guidance=Moved()), sample(name))


@pytest.mark.parametrize("name", VARIANTS)
def test_so_they_are_where_the_pipeline_begins_with_a_picture(name: str) -> None:
    assert torch.equal(sample(name, guidance=Again()), sample(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pixel_behind_is_evaluated_at_its_own_level(name: str) -> None:
    """Of two images in a batch the rows are those of each alone."""
    settings: dict[str, Any] = {"guidance": ZSampling(inversion_scale=0.5), "mask": DynamicMask()}
    both = ["a red dog", "a red dog and a cat"]
    made = [
        asyndm.sample(
            build(name),
            both,
            [["dog"], ["cat"]],
            batch_invariant=alone,
            **settings,
            **make_call(name, seed=[3, 4]),
        )
        for alone in (True, False)
    ]
    assert torch.isfinite(made[0]).all()
    # CogView4 fills up a prompt to the longest of its batch, and attends to that.
    if name != "cogview4":
        assert (made[1] - made[0]).abs().max() <= 1e-4 * made[0].abs().max()


@pytest.mark.parametrize(
    ("name", "message", "settings"),
    [
        ("lumina2", "cfg_normalization=True rescales .* set it to False", {}),
        ("lumina2", "cfg_trunc_ratio=0.0", {"cfg_trunc_ratio": 0.0, "cfg_normalization": False}),
        ("zimage", "cfg_truncation=0.5 leaves out .* set it to 1.0", {"cfg_truncation": 0.5}),
        ("zimage", "guidance_scale=0 leaves out: give more than 0", {"guidance_scale": 0.0}),
        ("sd", "guidance_scale=1 leaves out: give more than 1", {"guidance_scale": 1.0}),
        ("sd", "guidance_rescale=0.7 rescales .* set it to 0.0", {"guidance_rescale": 0.7}),
        ("qwen", "brings what it combines to the norm", {}),
        ("flux_fill", "needs .* which FluxFillPipeline does not ask it", {}),
        ("flux2", "needs .* which Flux2Pipeline does not ask it", {}),
        ("flux", "a negative_prompt as well", {"negative_prompt": None}),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    name: str, message: str, settings: dict[str, Any]
) -> None:
    own = {"cfg_normalization": None} if name == "lumina2" else {}
    records: list[StepRecord] = []
    for guidance in (APG(), CFGPlusPlus(), Again()):
        with pytest.raises(UserError, match=message):
            sample(name, guidance=guidance, callback=records.append, **{**own, **settings})
    assert not records


@pytest.mark.parametrize("name", ["lumina2", "qwen"])
def test_a_second_evaluation_of_what_is_rescaled_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="which solver=heun cannot follow"):
        sample(name, solver=Heun(), **({"cfg_normalization": True} if name == "lumina2" else {}))


@pytest.mark.parametrize(
    ("name", "solver"), [("flux_inpaint", AB2()), ("sd_inpaint", DPMSolverPlusPlus2M())]
)
def test_inpainting_leaves_its_own_pixels_a_solver_of_second_order(
    name: str, solver: Solver
) -> None:
    """Although the pipeline changes the others in every step."""
    first, second = (
        sample(name, num_inference_steps=4, mask=NoMask(), **own)
        for own in ({}, {"solver": solver})
    )
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_a_call_in_a_context_with_another_scale_is_refused(name: str) -> None:
    """PixArt's pipeline does not tell it: there it is seen by what it combines."""
    pipe, call = build(name), make_call(name)
    guidance = APG(guidance_scale=SCALE)
    with asyndm.asynchronous(pipe, PROMPT, mask=NoMask(), guidance=guidance):
        assert torch.isfinite(pipe(PROMPT, **call).images).all()
        with pytest.raises(UserError, match="guidance_scale"):
            pipe(PROMPT, **{**call, "guidance_scale": 6.0})


@pytest.mark.parametrize(
    ("name", "guidance", "setting"),
    [
        ("sd", ClassifierFree(SCALE, "a cat"), "negative_prompt"),
        ("sd", APG(SCALE, "a cat"), "negative_prompt"),
        ("pixart", ClassifierFree(SCALE), "guidance_scale"),
    ],
)
def test_what_a_guidance_cannot_set_in_a_context_is_refused(
    name: str, guidance: Guidance, setting: str
) -> None:
    with (
        pytest.raises(UserError, match=f"{setting} is an argument of the call"),
        asyndm.asynchronous(build(name), PROMPT, mask=NoMask(), guidance=guidance),
    ):
        pass
