"""What a step's record says beyond what other tests read off it: what the images have cost."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import asyndm
from asyndm.networks import find_denoiser
from tests.library.networks.cases import SUBJECTS, build, sample_ours

STEPS = 5
STATIC = {"mask": asyndm.StaticMask()}
COSTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "without guidance": ("sd", {"guidance_scale": 1.0}, 1),
    "guidance in one batch": ("sd", {"guidance_scale": 4.0}, 2),
    "perturbed attention beside it": ("sd_pag", {"guidance_scale": 4.0}, 3),
    "a rehearsal": ("sd", {"guidance_scale": 1.0, **STATIC}, 2),
    "a rehearsal with guidance": ("sd", {"guidance_scale": 4.0, **STATIC}, 4),
    "a ControlNet, which does not count": ("sd_controlnet", {"guidance_scale": 4.0}, 2),
    "a flow": ("sd3", {"guidance_scale": 4.0}, 2),
    "guidance that the network was distilled for": ("flux", {"guidance_scale": 4.0}, 1),
    "guidance as a second call": ("qwen", {"true_cfg_scale": 4.0}, 2),
    "a rehearsal with second calls": ("qwen", {"true_cfg_scale": 4.0, **STATIC}, 4),
    "without the second call": ("qwen", {"true_cfg_scale": 1.0}, 1),
    "lists of pictures": ("zimage", {"guidance_scale": 4.0}, 2),
}
"""A pipeline, what it is asked, and the evaluations of an image in a step."""


def count_rows(module: nn.Module, args: tuple[Any, ...], output: Any) -> int:
    """The batch that a network was called with, as its output shows."""
    made = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    return len(made)


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("case", COSTS)
def test_evaluations_are_the_rows_the_network_was_called_with(
    case: str, batch_invariant: bool
) -> None:
    """Of the images of the record's batch; the images' sum is that of all calls."""
    name, settings, each = COSTS[case]
    pipe, called, records = build(name), list[int](), list[asyndm.StepRecord]()
    handle = find_denoiser(pipe).register_forward_hook(
        lambda *call: called.append(count_rows(*call)), prepend=True
    )
    try:
        sample_ours(name, callback=records.append, batch_invariant=batch_invariant, **settings)
    finally:
        handle.remove()
    rehearsed = 2 if "mask" in settings else 1
    last = {record.images: record.evaluations for record in records}
    images = [1, 1] if batch_invariant else [2]
    assert list(last.values()) == [STEPS * each * count for count in images]
    assert sum(last.values()) == sum(called) == STEPS * each * len(SUBJECTS)
    first, second = records[:2]
    assert second.evaluations - first.evaluations == each // rehearsed * len(first.images)
    assert first.evaluations == (rehearsed - 1) * last[first.images] // 2 + (
        second.evaluations - first.evaluations
    )


def test_each_call_in_a_context_counts_anew() -> None:
    pipe, records = build("sd"), list[asyndm.StepRecord]()
    with asyndm.asynchronous(pipe, "a dog", mask=asyndm.NoMask(), callback=records.append):
        for _ in range(2):
            pipe("a dog", num_inference_steps=2, guidance_scale=4.0, output_type="latent")
    assert [record.evaluations for record in records] == [2, 4, 2, 4]
