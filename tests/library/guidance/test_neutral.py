"""What holds of every guidance: with neutral settings it is classifier-free guidance to the bit, it
costs what it says, and it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

import asyndm
import asyndm.guidance
from asyndm import DynamicMask, Mask, NoMask, StepRecord
from asyndm.guidance import (
    APG,
    FSG,
    SCFG,
    AttendAndExcite,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    InitNO,
    Interval,
    Perturbed,
    PerturbedAttention,
    SkipLayers,
    SmoothedEnergy,
    SynGen,
    ZSampling,
)
from asyndm.networks import find_denoiser
from tests.library.traces import find_traces
from tests.pipelines.registry import PIPELINES

SCALE, STEPS = 5.0, 4
PROMPTS = ["a red dog", "a red cat and a dog"]
SUBJECTS = [["red dog"], ["red cat", "dog"]]
MASKS: list[Mask] = [NoMask(), DynamicMask()]
UNET, FLOW, TWICE = "unet", "sd3", "flux"
"""The last calls its network a second time for the negative prompt."""
CALLS: dict[str, dict[str, Any]] = {
    UNET: {"guidance_scale": SCALE},
    FLOW: {"guidance_scale": SCALE, **PIPELINES[FLOW].arguments},
    TWICE: {"true_cfg_scale": SCALE, "negative_prompt": "a cat", **PIPELINES[TWICE].arguments},
}


@dataclass(frozen=True)
class Case:
    """A guidance on a tiny pipeline.

    Args:
        neutral: with the settings in which it is classifier-free guidance.
        usual: with some in which it is not, and which suit so small a network.
    """

    neutral: Guidance
    usual: Guidance
    network: str = UNET

    @property
    def name(self) -> str:
        return f"{self.neutral.name}-{self.network}"


CASES = [
    Case(Guidance(), Guidance()),
    Case(Interval(), Interval(start=0.25, stop=0.75)),
    Case(Interval(), Interval(start=0.25, stop=0.75), FLOW),
    Case(PerturbedAttention(scale=0), PerturbedAttention()),
    Case(PerturbedAttention(scale=0), PerturbedAttention(layers=[0]), FLOW),
    Case(SmoothedEnergy(scale=0), SmoothedEnergy()),
    Case(SkipLayers(scale=0), SkipLayers(layers=[0], start=0.0, stop=0.6), FLOW),
    Case(SCFG(min_rate=1, max_rate=1), SCFG()),
    Case(CFGPlusPlus(scale=SCALE, renoise_scale=SCALE), CFGPlusPlus()),
    Case(CFGPlusPlus(scale=SCALE, renoise_scale=SCALE), CFGPlusPlus(), FLOW),
    Case(APG(parallel=1, rho=None, momentum=0), APG()),
    Case(APG(parallel=1, rho=None, momentum=0), APG(), FLOW),
    Case(APG(parallel=1, rho=None, momentum=0), APG(), TWICE),
    Case(CFGZeroStar(zero_steps=0, rescale=False), CFGZeroStar(), FLOW),
    Case(ZSampling(zigzags=0), ZSampling(zigzags=2)),
    Case(ZSampling(zigzags=0), ZSampling(inversion_scale=2), FLOW),
    Case(ZSampling(zigzags=0), ZSampling(zigzags=1), TWICE),
    Case(
        FSG(scale=SCALE, renoise_scale=SCALE, schedule=()),
        FSG(schedule=[[0, 3, 1], [1, 1, 2]]),
    ),
    Case(
        FSG(scale=SCALE, renoise_scale=SCALE, schedule=()),
        FSG(inversion_scale=1, schedule=[[0, 2, 1]]),
        FLOW,
    ),
    Case(AttendAndExcite(step_size=0), AttendAndExcite(refinements=2)),
    Case(SynGen(step_size=0), SynGen()),
    Case(InitNO(step_size=0, noises=0), InitNO(noises=2, updates=1, last_updates=2, refinements=1)),
]
Sample: TypeAlias = "Callable[..., Tensor]"

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def pipes(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """All cases share them: a call leaves them untouched."""
    return {UNET: pipe, **{name: PIPELINES[name].build() for name in (FLOW, TWICE)}}


@pytest.fixture(scope="module")
def sample(pipes: dict[str, Any]) -> Sample:
    """Latents of two images in four steps."""

    def sample_latents(network: str, guidance: Guidance, **settings: Any) -> Tensor:
        tiny = PIPELINES.get(network)
        size = {} if tiny is None else {"height": tiny.size[0], "width": tiny.size[1]}
        given = {"num_inference_steps": STEPS, "seed": 3, **CALLS[network], **size}
        made: Tensor = asyndm.sample(
            pipes[network],
            PROMPTS,
            SUBJECTS,
            guidance=guidance,
            output_type="latent",
            **{**given, **settings},
        )
        return made

    return sample_latents


@pytest.fixture(scope="module")
def sample_plain(sample: Sample) -> Sample:
    """Those of classifier-free guidance, made once."""

    @cache
    def find(network: str, eta: float, mask: Mask) -> Tensor:
        return sample(network, ClassifierFree(), eta=eta, mask=mask)

    return find


def test_every_guidance_is_among_them() -> None:
    offered = [kind for kind in vars(asyndm.guidance).values() if isinstance(kind, type)]
    guidances = {kind for kind in offered if issubclass(kind, Guidance)}
    assert guidances - {type(case.neutral) for case in CASES} == {ClassifierFree, Perturbed}


@each
@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_neutral_settings_it_is_classifier_free_guidance(
    sample: Sample, sample_plain: Sample, case: Case, mask: Mask, eta: float
) -> None:
    expected = sample_plain(case.network, eta, mask)
    assert torch.equal(sample(case.network, case.neutral, eta=eta, mask=mask), expected)


@each
def test_it_costs_what_it_says(sample: Sample, sample_plain: Sample, case: Case) -> None:
    for guidance in (case.neutral, case.usual):
        records: list[StepRecord] = []
        made = sample(
            case.network,
            guidance,
            eta=1.0,
            mask=MASKS[1],
            batch_invariant=False,
            callback=records.append,
        )
        assert torch.isfinite(made).all()
        counted = records[-1].evaluations, records[-1].backward_evaluations
        cost = guidance.cost(STEPS, case.network != TWICE, CALLS[case.network])
        most = cost.forward * len(PROMPTS), cost.backward * len(PROMPTS)
        assert counted == most if cost.exact else counted[0] <= most[0] and counted[1] <= most[1]
    changes = not torch.equal(made, sample_plain(case.network, 1.0, MASKS[1]))
    assert changes or type(case.usual) is Guidance


class StopError(RuntimeError):
    pass


@each
def test_it_leaves_nothing_behind_where_the_network_breaks(
    sample: Sample, sample_plain: Sample, pipes: dict[str, Any], case: Case
) -> None:
    """In its third call: in the middle of a step of what evaluates more than once."""
    pipe = pipes[case.network]
    network = find_denoiser(pipe)
    *_, last = network.children()
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StopError

    def look() -> tuple[Any, ...]:
        learned = [weight.requires_grad for weight in network.parameters()]
        return find_traces(network), learned, pipe.scheduler, dict(pipe.scheduler.config)

    before = look()
    hook = last.register_forward_hook(stop)
    try:
        with pytest.raises(StopError):
            sample(case.network, case.usual, mask=MASKS[1], eta=1.0)
    finally:
        hook.remove()
    after = look()
    assert after == before and after[2] is before[2]
    assert torch.is_grad_enabled() and calls == 3
    again = sample(case.network, ClassifierFree(), mask=MASKS[1], eta=1.0)
    assert torch.equal(again, sample_plain(case.network, 1.0, MASKS[1]))
