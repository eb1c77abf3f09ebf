"""Guidances by a perturbed row, against diffusers' own pipelines; what is done to that row is tried
in `test_perturbations`."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3PAGPipeline
from torch import Tensor, nn

from asyndm import StepRecord
from asyndm.errors import UserError
from asyndm.guidance.base import Guidance
from asyndm.guidance.perturbed import PerturbedAttention, SkipLayers, SmoothedEnergy
from asyndm.masks import DynamicMask, Mask, NoMask
from asyndm.solvers import Heun
from tests.library.guidance.pairs import PROMPTS, draw, make_pag, make_pipe
from tests.pipelines.registry import PIPELINES

ALWAYS = SkipLayers(scale=2.0, layers=[0, 2], start=0, stop=1)


# --- as diffusers has it --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("scale", [4.0, 1.0])
@pytest.mark.parametrize(("mask", "eta"), [(NoMask(), 1.0), (DynamicMask(), 0.0)])
def test_attention_is_perturbed_to_the_bit_as_in_a_pag_pipeline(
    name: str, scale: float, mask: Mask, eta: float
) -> None:
    settings: dict[str, Any] = {"mask": mask, "eta": eta, "guidance_scale": scale}
    theirs = draw(name, pipe=make_pag(name), pag_scale=3.0, **settings)
    ours = draw(name, guidance=PerturbedAttention(), **settings)
    assert torch.equal(ours, theirs)
    assert (ours - draw(name, **settings)).abs().max() > 0.1


def test_layers_are_the_same_ones() -> None:
    theirs = draw("sdxl", pipe=make_pag("sdxl", "down_blocks.1"), pag_scale=3.0)
    guidance = PerturbedAttention(layers=["down.1"])
    assert torch.equal(draw("sdxl", guidance=guidance), theirs)


def test_an_adaptive_scale_is_theirs_where_all_pixels_share_a_level() -> None:
    settings: dict[str, Any] = {"pag_scale": 3.0, "pag_adaptive_scale": 0.004}
    theirs = draw("sd", pipe=make_pag("sd"), **settings)
    ours = draw("sd", guidance=PerturbedAttention(adaptive_scale=0.004))
    fixed = draw("sd", guidance=PerturbedAttention())
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - fixed).abs().max() > 0.1


def test_an_adaptive_scale_follows_each_pixel() -> None:
    moment: Any = SimpleNamespace(timesteps=torch.tensor([1000.0, 500.0, 0.0]).double())
    scale = PerturbedAttention(scale=3.0, adaptive_scale=0.004).find_scale(moment)
    assert isinstance(scale, Tensor) and scale.tolist() == [3.0, 1.0, 0.0]


@pytest.mark.parametrize(("mask", "scale"), [(NoMask(), 4.0), (DynamicMask(), 1.0)])
def test_joint_attention_is_perturbed_as_in_a_pag_pipeline(mask: Mask, scale: float) -> None:
    """Up to rounding: the hidden part of the attention matrix is not computed here."""
    absent = ("image_encoder", "feature_extractor")
    parts = {name: part for name, part in make_pipe("sd3").components.items() if name not in absent}
    pag = StableDiffusion3PAGPipeline(**parts, pag_applied_layers="blocks.1")
    pag.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"mask": mask, "guidance_scale": scale, "attention_layers": [1]}
    theirs = draw("sd3", pipe=pag, pag_scale=3.0, **settings)
    ours = draw("sd3", guidance=PerturbedAttention(layers=[1]), **settings)
    torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=0)
    assert (ours - draw("sd3", **settings)).abs().max() > 0.1


def test_layers_are_skipped_as_by_the_pipeline_of_sd3() -> None:
    """Three steps of which the second alone is within. On some processors the last bits of a row
    depend on the rows beside it, which are others there."""
    own: dict[str, Any] = {"skip_guidance_layers": [0, 2], "skip_layer_guidance_scale": 3.0}
    own |= {"skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.5}
    settings: dict[str, Any] = {
        "guidance_scale": 4.0,
        "num_inference_steps": 3,
        "output_type": "latent",
    }
    generators = [torch.Generator().manual_seed(0) for _ in PROMPTS]
    theirs = PIPELINES["sd3"].run(
        make_pipe("sd3"), PROMPTS, generator=generators, **settings, **own
    )
    ours = draw("sd3", guidance=SkipLayers(scale=3.0, layers=[0, 2], stop=0.5))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - draw("sd3")).abs().max() > 0.1


# --- beside other settings ------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("mask", [NoMask(), DynamicMask()])
@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        ("sd", PerturbedAttention(scale=0.0)),
        ("sd", SmoothedEnergy(scale=0.0)),
        ("sd3", PerturbedAttention(scale=0.0)),
        ("sd3", SkipLayers(scale=0.0)),
        ("sd3", SkipLayers(scale=3.0, layers=[1], start=0.4, stop=0.6)),
    ],
)
def test_a_scale_of_nought_is_classifier_free_guidance_to_the_bit(
    name: str, guidance: Guidance, mask: Mask, eta: float
) -> None:
    """Steps beyond a window as well: none of three is between 0.4 and 0.6 of the way."""
    records: list[StepRecord] = []
    made = draw(name, mask, eta=eta, guidance=guidance, callback=records.append)
    assert torch.equal(made, draw(name, mask, eta=eta))
    assert records[-1].evaluations == 3 * 2 * len(PROMPTS)


@pytest.mark.parametrize(
    ("name", "guidance", "settings"),
    [
        ("sd", PerturbedAttention(), {}),
        ("sd", PerturbedAttention(), {"guidance_scale": 1.0}),
        ("sdxl", SmoothedEnergy(sigma=2.0), {}),
        ("sd35", PerturbedAttention(layers=[0]), {}),
        ("sd35", SkipLayers(layers=[1], stop=0.5), {}),
        ("sd35", SkipLayers(layers=[1], stop=0.5), {"guidance_scale": 1.0}),
        ("sd3", ALWAYS, {"solver": Heun()}),
        ("flux", ALWAYS, {}),
        ("flux", ALWAYS, {"true_cfg_scale": 3.0, "negative_prompt": "a cat"}),
    ],
)
def test_it_costs_what_it_says(name: str, guidance: Guidance, settings: dict[str, Any]) -> None:
    records: list[StepRecord] = []
    made = draw(name, DynamicMask(), guidance=guidance, callback=records.append, **settings)
    assert torch.isfinite(made).all()
    scale, solver = settings.get("guidance_scale", 4.0), settings.get("solver")
    again = 1 if solver is None else solver.evaluations
    scaled = type(guidance)(**{**vars(guidance), "guidance_scale": scale})
    cost = scaled.cost(3, name != "flux", settings, again)
    assert cost.exact and records[-1].evaluations == cost.forward * len(PROMPTS)


def test_pictures_made_together_are_those_made_alone() -> None:
    guidance = SmoothedEnergy(sigma=2.0)
    together = draw("sd", DynamicMask(), guidance=guidance)
    alone = draw("sd", DynamicMask(), guidance=guidance, batch_invariant=True)
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        ("sd", PerturbedAttention()),
        ("sd", SmoothedEnergy(sigma=1.0)),
        ("sd35", PerturbedAttention(layers=[0])),
        ("sd35", ALWAYS),
    ],
)
def test_nothing_is_left_behind_by_a_network_that_fails(name: str, guidance: Guidance) -> None:
    pipe = make_pipe(name)
    network = pipe.unet if name == "sd" else pipe.transformer
    before, plain = count_hooks(network), draw(name)
    block = network.up_blocks[-1] if name == "sd" else network.transformer_blocks[-1]

    def fail(*args: object) -> None:
        raise RuntimeError("out of memory")

    handle = block.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            draw(name, guidance=guidance)
    finally:
        handle.remove()
    assert count_hooks(network) == before
    assert torch.equal(draw(name), plain)


def count_hooks(network: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in network.named_modules()
    }


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "guidance", "message"),
    [
        ("sd", PerturbedAttention(layers=["down.0"]), "no layer 'down.0'; it has down.1, down.2, "),
        ("sd", SmoothedEnergy(layers=[3]), "guidance.layers: the network has no layer 3; it has "),
        ("sd", PerturbedAttention(layers=[0]), "the network has no layer 0; it has down.1, "),
        ("sd", SkipLayers(), "guidance=slg is defined on networks of SD3, Flux"),
        ("sd3", SmoothedEnergy(), "guidance=seg is defined on networks of UNet"),
        ("sd3", PerturbedAttention(), "the network has no layer 13; it has 0, 1, 2"),
        ("sd3", SkipLayers(), "the network has no layer 7; it has 0, 1, 2"),
        ("flux", SkipLayers(layers=[4]), "the network has no layer 4; it has 0, 1, 2, 3"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_anything_runs(
    name: str, guidance: Guidance, message: str
) -> None:
    pipe, ran = make_pipe(name), []
    network = pipe.unet if name == "sd" else pipe.transformer
    handle = network.register_forward_pre_hook(lambda *args: ran.append(1))
    with pytest.raises(UserError, match=message):
        draw(name, guidance=guidance)
    handle.remove()
    assert not ran


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerturbedAttention(scale=math.nan), "guidance.scale must be a finite number"),
        (lambda: PerturbedAttention(adaptive_scale=-1.0), "guidance.adaptive_scale must be 0 or"),
        (lambda: PerturbedAttention(layers=[]), "guidance.layers must be a list"),
        (lambda: PerturbedAttention(layers="mid"), "guidance.layers must be a list"),
        (lambda: PerturbedAttention(layers=[True]), "guidance.layers must be a list"),
        (lambda: PerturbedAttention(layers=[""]), "guidance.layers must be a list"),
        (lambda: SmoothedEnergy(sigma=0.0), "guidance.sigma must be a number above 0"),
        (lambda: SmoothedEnergy(sigma=math.nan), "guidance.sigma must be a number above 0"),
        (lambda: SkipLayers(start=0.5, stop=0.2), "guidance.start=0.5 must not be above"),
        (lambda: SkipLayers(stop=2.0), r"guidance.stop must be a number in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    make: Callable[[], Guidance], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_names_are_no_blocks_to_skip() -> None:
    layers: Any = ["mid"]
    with pytest.raises(UserError, match=r"guidance.layers must be numbers of blocks"):
        SkipLayers(layers=layers)


@pytest.mark.parametrize(
    ("guidance", "label"),
    [
        (PerturbedAttention(4.0), "pag 3 4"),
        (PerturbedAttention(scale=0.5, layers=["mid", "up.0"]), "pag 0.5 mid,up.0"),
        (SmoothedEnergy(5.0, sigma=10.0), "seg 3 sigma 10 5"),
        (SmoothedEnergy(5.0), "seg 3 5"),
        (SkipLayers(4.5), "slg 2.8 4.5"),
        (SkipLayers(layers=[6], stop=0.3), "slg 2.8 6 0.01-0.3"),
    ],
)
def test_its_label_is_what_is_set(guidance: Guidance, label: str) -> None:
    assert guidance.label == label
