"""Losses of attention against the same in plain numpy, their gradients against differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from asyndm import DynamicMask, NoMask
from asyndm.errors import UserError
from asyndm.guidance.attention_losses import (
    AttentionLoss,
    Group,
    Misbinding,
    Neglect,
    TextReader,
    measure_conflict,
    score,
)
from asyndm.guidance.moment import Moment
from asyndm.guidance.prompts import PromptTokens
from tests.conftest import make_pipeline
from tests.library.guidance.combining import sample_latents
from tests.library.guidance.descent import Fixed, Looking, draw_maps, list_hooks, make_prompt

PROMPTS = [make_prompt([(1,), (3, 4)], end=7), make_prompt([(2, 3)], end=5)]
GROUPS = [[Group((4,), ((1,), (2, 3))), Group((6,), ((5,),))], []]
Array = NDArray[np.float64]


def blur(picture: Array) -> Array:
    """Every place and its eight neighbours, mirrored at the border, by e^-d²."""
    padded, (height, width) = np.pad(picture, 1, mode="reflect"), picture.shape
    total, norm = np.zeros_like(picture), 0.0
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            weight = np.exp(-(i**2) - j**2)
            total += weight * padded[1 + i : 1 + i + height, 1 + j : 1 + j + width]
            norm += weight
    return total / norm


def compute_neglect(maps: Array, prompt: PromptTokens, padding: bool) -> float:
    last = prompt.length - 1 if padding else prompt.end
    powers = np.exp(100 * (maps[1:last] - maps[1:last].max(0)))
    shares = powers / powers.sum(0)
    return max(
        1 - max(blur(np.sum([shares[place - 1] for place in places], 0)).flatten())
        for places in prompt.subjects
    )


def compute_divergence(a: Array, b: Array) -> float:
    a, b = a / a.sum(), b / b.sum()
    return float((a * np.log(a / b)).sum() + (b * np.log(b / a)).sum()) / 2


def compute_misbinding(maps: Array, prompt: PromptTokens, groups: Sequence[Group]) -> float:
    def compare(word: Sequence[int], other: Sequence[int]) -> float:
        return max(compute_divergence(maps[i], maps[j]) for i in word for j in other)

    total = 0.0
    for group in groups:
        inside = [*group.noun, *sum(group.modifiers, ())]
        outside = [i for i in range(1, prompt.end) if i not in inside]
        for modifier in group.modifiers:
            total += compare(modifier, group.noun)
            for word in (modifier, group.noun):
                total -= float(np.mean([compare(word, [i]) for i in outside])) / 2
    return total


@pytest.mark.parametrize("padding", [False, True])
def test_neglect_is_its_equation(padding: bool) -> None:
    maps = draw_maps(2)
    reader: Any = Fixed(maps)
    expected = [
        compute_neglect(own.numpy(), prompt, padding)
        for own, prompt in zip(maps, PROMPTS, strict=True)
    ]
    made = Neglect(PROMPTS, padding)(reader)
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-12)
    assert min(expected) > 0 and max(expected) < 1


def test_misbinding_is_its_equation() -> None:
    maps = draw_maps(2)
    reader: Any = Fixed(maps)
    loss = Misbinding(PROMPTS, GROUPS)
    expected = compute_misbinding(maps[0].numpy(), PROMPTS[0], GROUPS[0])
    made = loss(reader)
    assert float(made[0]) == pytest.approx(expected, rel=1e-12) and expected != 0
    assert made[1] == 0  # no pair
    assert loss.is_defined(0) and not loss.is_defined(1)
    reader.images = [1, 0]
    assert loss(reader)[0] == 0, "each image has the pairs of its own prompt"


def test_a_phrase_that_is_the_whole_prompt_is_only_drawn_together() -> None:
    maps, prompt = draw_maps(1), make_prompt([(1, 2)], end=3)
    reader: Any = Fixed(maps)
    made = Misbinding([prompt], [[Group((2,), ((1,),))]])(reader)
    expected = compute_divergence(maps[0, 1].numpy(), maps[0, 2].numpy())
    assert float(made) == pytest.approx(expected, rel=1e-12)


def test_conflict_is_the_share_that_maps_have_in_common() -> None:
    a, b, c = maps = draw_maps(1, 3)[0]
    pairs = [
        float(torch.minimum(x, y).sum() / (x.sum() + y.sum())) for x, y in [(a, b), (a, c), (b, c)]
    ]
    assert float(measure_conflict(maps)) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert float(measure_conflict(torch.stack([a, a]))) == pytest.approx(0.5)
    assert float(measure_conflict(maps[:1])) == 0


class Conflict(AttentionLoss):
    """Neglect and conflict together, which InitNO descends."""

    def __init__(self, prompts: Sequence[PromptTokens]) -> None:
        self._prompts = prompts

    def __call__(self, reader: TextReader) -> Tensor:
        scores = score(reader, self._prompts, padding=False)
        return scores.neglect + scores.conflict


def pair_subjects(prompts: Sequence[PromptTokens]) -> Misbinding:
    """The first token of each prompt's first subject modifies the last of its last."""
    groups = [[Group(p.subjects[-1][-1:], (p.subjects[0][:1],))] for p in prompts]
    return Misbinding(prompts, groups)


@pytest.mark.parametrize("make", [Neglect, pair_subjects, Conflict])
def test_the_gradient_is_that_of_finite_differences(make: Any) -> None:
    pipe = make_pipeline().to(torch.float64)
    errors: list[float] = []

    def look(x: Tensor, moment: Moment) -> None:
        reader = moment.probe
        assert isinstance(reader, TextReader)
        assert not torch.equal(moment.here.level.sigma.amin(), moment.here.level.sigma.amax())
        x = x.double()
        _, gradient = reader.differentiate(moment, x)
        assert gradient.dtype == torch.float64
        for seed in range(3):
            way = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
            up, down = (reader.differentiate(moment, x + h * way)[0] for h in (1e-5, -1e-5))
            expected = (up - down) / 2e-5
            made = (gradient * way).flatten(1).sum(1)
            errors.extend(((made - expected) / expected).abs().tolist())

    guidance = Looking(look=look, make=make, at=3)
    sample_latents(pipe, guidance, mask=DynamicMask(), batch_invariant=False)
    assert len(errors) == 6 and max(errors) < 1e-6


def test_the_maps_are_those_of_the_prompt_at_this_x(pipe: Any) -> None:
    """The mask's reader sees the guided evaluation of the same step."""
    found: list[Tensor] = []

    def look(x: Tensor, moment: Moment) -> None:
        reader = moment.probe
        assert isinstance(reader, TextReader)

        def measure() -> Tensor:
            found.append(reader.maps().detach())
            return reader.loss(reader)

        reader.differentiate(moment, x, loss=measure)
        assert len(reader.own.layers) == len(reader.cross.layers) and not reader.own.read

    guidance = Looking(look=look)
    _, records = sample_latents(pipe, guidance, mask=DynamicMask(), batch_invariant=False)
    (maps,), seen = found, records[1].maps
    assert seen is not None
    assert torch.allclose(maps.sum(1), torch.ones(()))
    # "a red dog": "red dog" is tokens 2 and 3
    assert torch.allclose(maps[0, 2:4].mean(0), seen[0, 0], atol=1e-6)
    plain = sample_latents(pipe, mask=DynamicMask(), batch_invariant=False)[0]
    assert torch.equal(records[-1].latents, plain)


def test_fused_projections_are_read_alike() -> None:
    losses: list[Tensor] = []

    def look(x: Tensor, moment: Moment) -> None:
        reader = moment.probe
        assert isinstance(reader, TextReader)
        losses.append(reader.differentiate(moment, x)[0])

    for fuse in (False, True):
        pipe = make_pipeline()
        if fuse:
            pipe.unet.fuse_qkv_projections()
        guidance = Looking(look=look, make=Conflict, at=1)
        sample_latents(pipe, guidance, mask=NoMask(), batch_invariant=False)
    assert torch.allclose(losses[0], losses[1], atol=1e-6)


def test_nothing_is_left_behind_after_an_exception(pipe: Any) -> None:
    hooks = list_hooks(pipe.unet)
    pipe.unet.requires_grad_(True)
    readers: list[TextReader] = []

    def look(x: Tensor, moment: Moment) -> None:
        reader = moment.probe
        assert isinstance(reader, TextReader)
        readers.append(reader)
        assert not any(weight.requires_grad for weight in pipe.unet.parameters())

        def fail() -> Tensor:
            raise RuntimeError("in the loss")

        reader.differentiate(moment, x, loss=fail)

    with pytest.raises(RuntimeError, match="in the loss"):
        sample_latents(pipe, Looking(look=look), mask=DynamicMask())
    assert list_hooks(pipe.unet) == hooks
    assert all(weight.requires_grad for weight in pipe.unet.parameters())
    assert not readers[0].own.read
    again = sample_latents(pipe, mask=DynamicMask())[0]
    assert torch.equal(again, sample_latents(make_pipeline(), mask=DynamicMask())[0])


def test_inference_mode_is_refused(pipe: Any) -> None:
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        sample_latents(
            pipe,
            Looking(look=lambda x, m: m.probe.differentiate(m, x) and None),  # type: ignore
        )
