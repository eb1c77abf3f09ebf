"""InitNO: its search, step by step, and that the steps' noises stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import asyndm
from asyndm import DynamicMask, Mask, NoMask
from asyndm.errors import UserError
from asyndm.guidance.attend_and_excite import AttendAndExcite
from asyndm.guidance.attention_losses import TextReader, score
from asyndm.guidance.init_no import InitNO
from asyndm.guidance.moment import Moment
from asyndm.guidance.noise_search import Gaussian, search_noise
from tests.library.guidance.combining import (
    MASKS,
    check_cost,
    count_rows,
    draw,
    sample_latents,
    sample_tiny,
)
from tests.library.test_sampler import measure_distance
from tests.pipelines.registry import PIPELINES

ALONE = 1e-5
"""As in `test_attend_and_excite`."""
LATER: dict[str, Any] = {"refinements": 0, "step_size": 0.0}
"""No Attend-and-Excite behind the search."""


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_search_and_step_it_is_cfg(pipe: Any, mask: Mask, eta: float) -> None:
    expected = sample_latents(pipe, mask=mask, eta=eta)[0]
    neutral = InitNO(noises=0, step_size=0.0)
    latents, records = sample_latents(pipe, neutral, mask=mask, eta=eta)
    assert torch.equal(latents, expected)
    check_cost(neutral, records)


def test_without_search_it_is_attend_and_excite(pipe: Any) -> None:
    made = sample_latents(pipe, InitNO(noises=0, refinements=0), mask=NoMask())[0]
    expected = sample_latents(pipe, AttendAndExcite(refinements=0), mask=NoMask())[0]
    assert torch.equal(made, expected)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
def test_a_noise_that_is_good_enough_is_kept(pipe: Any, mask: Mask) -> None:
    guidance = InitNO(neglect_limit=1.1, conflict_limit=1.1, **LATER)
    latents, records = sample_latents(pipe, guidance, mask=mask, eta=1.0)
    assert torch.equal(latents, sample_latents(pipe, mask=mask, eta=1.0)[0])
    assert (records[-1].evaluations, records[-1].backward_evaluations) == (9, 1)


def test_the_steps_draw_the_noises_of_cfg(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyndm import noise, scheduler

    drawn: list[Tensor] = []

    def draw_noise(like: Tensor, generators: noise.Generators) -> Tensor:
        drawn.append(noise.draw_noise(like, generators))
        return drawn[-1]

    monkeypatch.setattr(scheduler, "draw_noise", draw_noise)
    sample_latents(pipe, mask=DynamicMask(), eta=1.0)
    expected = drawn.copy()
    drawn.clear()
    guidance = InitNO(noises=3, updates=1, last_updates=1, neglect_limit=0.0, refinements=0)
    sample_latents(pipe, guidance, mask=DynamicMask(), eta=1.0)
    assert len(drawn) == len(expected) == 8
    assert all(torch.equal(*pair) for pair in zip(drawn, expected, strict=True))


@pytest.mark.parametrize(
    ("noises", "limit", "updates"), [(1, 0.0, 2 * 5), (3, 0.0, 2 * 9), (3, 0.5, 9 + 1)]
)
def test_an_image_is_the_same_in_any_batch(
    pipe: Any, noises: int, limit: float, updates: int
) -> None:
    """Its fresh noises too, and it costs the same: one image is good enough from the first, or none
    is."""
    guidance = InitNO(noises=noises, updates=2, last_updates=3, neglect_limit=limit, **LATER)
    settings: dict[str, Any] = {"mask": NoMask(), "eta": 0.0}
    alone, each = sample_latents(pipe, guidance, batch_invariant=True, **settings)
    together, both = sample_latents(pipe, guidance, batch_invariant=False, **settings)
    assert measure_distance(together, alone) <= ALONE
    assert count_rows(both) == count_rows(each) == (2 * 8 + updates, updates)
    assert measure_distance(alone, sample_latents(pipe, **settings)[0]) > 10 * ALONE


def test_without_a_last_search_the_best_found_is_kept(pipe: Any) -> None:
    guidance = InitNO(noises=2, updates=3, last_updates=0, neglect_limit=0.0, **LATER)
    settings: dict[str, Any] = {"mask": NoMask(), "eta": 0.0}
    made, records = sample_latents(pipe, guidance, **settings)
    assert records[-1].backward_evaluations == 6
    assert (measure_each(made, sample_latents(pipe, **settings)[0]) > 10 * ALONE).all()


def measure_each(made: Tensor, other: Tensor) -> Tensor:
    """The largest difference of each image."""
    return (made - other).abs().flatten(1).amax(1)


class Watching(InitNO):
    """Keeps the loss of the noise before and after the search."""

    kept: list[tuple[Tensor, Tensor]]

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        if moment.step == 1:
            reader = moment.probe
            assert isinstance(reader, TextReader)

            def measure() -> Tensor:
                scores = score(reader, reader.prompts, self.padding)
                return scores.neglect + scores.conflict

            made = search_noise(self, x, moment)
            self.kept.append(
                (
                    reader.differentiate(moment, x, loss=measure)[0],
                    reader.differentiate(moment, made, loss=measure)[0],
                )
            )
        return x


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
def test_the_search_lowers_the_loss(pipe: Any, mask: Mask) -> None:
    guidance = Watching(noises=2, updates=2, last_updates=6, neglect_limit=0.0, **LATER)
    object.__setattr__(guidance, "kept", [])
    sample_latents(pipe, guidance, mask=mask, batch_invariant=False)
    ((before, after),) = guidance.kept
    assert (after < before).all()


def test_its_updates_are_those_of_torchs_adam() -> None:
    noise, target = draw((2, 3, 4, 5), 2)
    mean, log_variance = torch.zeros_like(noise), torch.zeros_like(noise)
    parameters = [mean.requires_grad_(), log_variance.requires_grad_()]
    adam = torch.optim.Adam(parameters, lr=0.01, eps=1e-3)
    made = Gaussian(torch.zeros_like(noise), torch.zeros_like(noise))
    for update in range(1, 8):
        x = made.draw(noise)
        made = made.descend(noise, 2e-3 * (x - target), update, 0.01)
        adam.zero_grad()
        own = mean + (log_variance / 2).exp() * noise
        (1e-3 * (own - target) ** 2).sum().backward()
        adam.step()
        assert torch.allclose(made.mean, mean, atol=1e-12, rtol=1e-9)
        assert torch.allclose(made.log_variance, log_variance, atol=1e-12, rtol=1e-9)


def test_its_divergence_is_that_of_two_normals_and_is_kept_small() -> None:
    mean, log_variance = (each / 5 for each in draw((2, 3, 4, 5), 2))
    made = Gaussian(mean, log_variance)
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(own, standard).flatten(1).mean(1)
    assert torch.allclose(made.divergence, expected)
    assert torch.allclose(made.shorten(1e-3).divergence, torch.full((2,), 1e-3).double(), rtol=0.05)
    assert torch.equal(made.shorten(1.0).mean, mean)
    assert not made.shorten(0.0).mean.any()


def test_its_cost_is_a_bound() -> None:
    tiny = PIPELINES["sdxl"]
    guidance = InitNO(noises=2, updates=2, last_updates=3, neglect_limit=0.0, refinements=0)
    last = sample_tiny(tiny.build(), tiny, guidance, mask=DynamicMask())[1][-1]
    cost = guidance.cost(4)
    assert not cost.exact
    assert (last.evaluations, last.backward_evaluations) == (cost.forward, cost.backward) == (17, 9)
    published = InitNO().cost(50)
    assert (published.forward, published.backward) == (100 + 100 + 25 + 40, 100 + 25 + 40)


def test_pictures_to_begin_with_are_refused() -> None:
    tiny = PIPELINES["sd_img2img"]
    with pytest.raises(UserError, match="guidance=init_no searches the noise to begin with"):
        sample_latents(tiny.build(), InitNO(), mask=NoMask(), **tiny.arguments)


def test_where_generators_are_not_known_it_says_so(pipe: Any) -> None:
    prompt, subjects = "a red dog", ["red dog"]
    with asyndm.asynchronous(pipe, prompt, subjects, guidance=InitNO(), mask=NoMask()):
        with pytest.raises(UserError, match="use asyndm.sample"):
            pipe(prompt, num_inference_steps=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noises": -1}, "guidance.noises must be a whole number of at least 0, got -1"),
        ({"updates": 1.5}, "guidance.updates must be a whole number"),
        ({"kl_limit": -1.0}, "guidance.kl_limit must be a finite number of at least 0"),
        ({"step_size": -1.0}, "guidance.step_size must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InitNO(**settings)


def test_its_label_has_the_search() -> None:
    assert InitNO(7.5).label == "init_no 20 7.5"
    assert InitNO(7.5, noises=1).label == "init_no 20 noises=1 7.5"
