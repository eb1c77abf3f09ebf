"""Attend-and-Excite: neutral it is CFG, and it moves x as its algorithm says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline
from torch import Tensor

from asyndm import DynamicMask, Mask, NoMask
from asyndm.errors import UserError
from asyndm.guidance.attend_and_excite import AttendAndExcite
from asyndm.guidance.attention_losses import TextReader
from asyndm.guidance.moment import Moment
from asyndm.solvers import DPMSolverPlusPlus2M
from tests.conftest import make_pipeline
from tests.library.guidance.combining import (
    MASKS,
    check_cost,
    count_rows,
    sample_latents,
    sample_tiny,
)
from tests.library.guidance.descent import Looking
from tests.library.test_sampler import measure_distance
from tests.pipelines.registry import PIPELINES

ALONE = 1e-5
"""An image alone against the same evaluated together with others, largest difference over the
largest latent (1.2e-6 measured)."""
UNREFINED = AttendAndExcite(refinements=0)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_a_step_it_is_cfg(pipe: Any, mask: Mask, eta: float) -> None:
    expected = sample_latents(pipe, mask=mask, eta=eta)[0]
    for neutral in (AttendAndExcite(step_size=0.0), AttendAndExcite(until=0.0)):
        latents, records = sample_latents(pipe, neutral, mask=mask, eta=eta)
        assert torch.equal(latents, expected)
        check_cost(neutral, records)


def test_without_a_step_a_solver_keeps_its_history(pipe: Any) -> None:
    call: dict[str, Any] = {"mask": NoMask(), "eta": 0.0, "solver": DPMSolverPlusPlus2M()}
    expected = sample_latents(pipe, **call)[0]
    assert torch.equal(sample_latents(pipe, AttendAndExcite(step_size=0.0), **call)[0], expected)
    assert not torch.equal(sample_latents(pipe, UNREFINED, **call)[0], expected)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
def test_an_image_is_the_same_in_any_batch(pipe: Any, mask: Mask) -> None:
    """And costs the same: which are evaluated once more is a matter of each."""
    guidance = AttendAndExcite(refinements=2, refine_at=(0.0,), thresholds=(0.5,))
    alone, each = sample_latents(pipe, guidance, mask=mask, batch_invariant=True)
    together, both = sample_latents(pipe, guidance, mask=mask, batch_invariant=False)
    assert measure_distance(together, alone) <= ALONE
    assert count_rows(both) == count_rows(each) == (2 * 8 + 6, 6), "of 8 updates at the most"
    plain = sample_latents(pipe, mask=mask)[0]
    assert measure_distance(alone, plain) > 100 * ALONE


def test_x_goes_down_the_gradient(pipe: Any) -> None:
    """A run with one update is a plain one that begins there."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(x: Tensor, moment: Moment) -> None:
        reader = moment.probe
        assert isinstance(reader, TextReader)
        found.append((x, *reader.differentiate(moment, x)))

    settings: dict[str, Any] = {"mask": NoMask(), "batch_invariant": False, "eta": 0.0}
    looking = Looking(look=look, at=1)
    sample_latents(pipe, looking, **settings)
    x, losses, gradient = found.pop()
    made = sample_latents(pipe, AttendAndExcite(until=0.25, refinements=0), **settings)[0]
    expected = sample_latents(pipe, latents=x - 20.0 * gradient, **settings)[0]
    assert torch.equal(made, expected)
    sample_latents(pipe, looking, latents=x - gradient, **settings)
    assert (found[0][1] < losses).all()


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_without_masks_it_is_the_pipeline_of_diffusers() -> None:
    """Which compares with the padding always. "and" is three tokens."""
    pipe, prompt, subjects = make_pipeline(), "a red dog and a cat", ["dog", "cat"]
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    oracle = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    oracle.set_progress_bar_config(disable=True)
    expected = oracle(
        prompt,
        token_indices=[3, 8],
        max_iter_to_alter=2,
        thresholds={},
        attn_res=(4, 4),
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    call: dict[str, Any] = {"prompt": prompt, "subjects": subjects, "mask": NoMask(), "eta": 0.0}
    guidance = AttendAndExcite(padding=True, refinements=0)
    made = sample_latents(make_pipeline(), guidance, **call)[0]
    assert measure_distance(made, expected) <= ALONE
    plain = sample_latents(make_pipeline(), **call)[0]
    assert measure_distance(plain, expected) > 100 * ALONE


@pytest.mark.parametrize("where", ["all", "subject"])
def test_other_pixels_than_the_subjects_stay_if_told_so(pipe: Any, where: str) -> None:
    found: list[tuple[Tensor, Tensor]] = []

    class Watching(AttendAndExcite):
        def prepare(self, x: Tensor, moment: Moment) -> Tensor:
            moved = super().prepare(x, moment)
            if moment.step == 2:
                found.append(((moved != x).any(1), moment.spread_weights(x)[:, 0] > 0))
            return moved

    guidance = Watching(refinements=0, where=where)
    records = sample_latents(pipe, guidance, mask=DynamicMask(), batch_invariant=False)[1]
    (moved, chosen), weights = found[0], records[1].weights
    assert torch.equal(chosen, weights.sum(1) > 0) and 0 < chosen.float().mean() < 1
    assert moved.any() and bool((moved & ~chosen).any()) == (where == "all")


def test_where_no_pixel_is_on_the_curve_nothing_is_evaluated(pipe: Any) -> None:
    guidance = AttendAndExcite(where="subject")
    latents, records = sample_latents(pipe, guidance, mask=NoMask())
    assert torch.equal(latents, sample_latents(pipe, mask=NoMask())[0])
    assert (records[-1].evaluations, records[-1].backward_evaluations) == (8, 0)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_its_cost_is_known_without_refinement(name: str) -> None:
    tiny = PIPELINES[name]
    _, records = sample_tiny(tiny.build(), tiny, UNREFINED, mask=DynamicMask())
    check_cost(UNREFINED, records)
    assert records[-1].backward_evaluations == 2


def test_with_refinement_it_is_a_bound(pipe: Any) -> None:
    never = AttendAndExcite(refine_at=(0.0, 0.3), thresholds=(1.0, 1.0), refinements=3)
    at_once = AttendAndExcite(refine_at=(0.0, 0.3), thresholds=(0.0, 0.0), refinements=3)
    most = never.cost(4)
    assert not most.exact and (most.forward, most.backward) == (16, 8)
    for guidance, backward in ((never, 8), (at_once, 2)):
        last = sample_latents(pipe, guidance, mask=NoMask())[1][-1]
        assert last.backward_evaluations == backward <= most.backward
        assert last.evaluations == 8 + backward <= most.forward


def test_refinement_goes_on_until_the_loss_is_low_enough(pipe: Any) -> None:
    """Of two images only the one that is above its target goes on."""
    losses: list[Tensor] = []

    class Watching(AttendAndExcite):
        def prepare(self, x: Tensor, moment: Moment) -> Tensor:
            if moment.step > 1:
                return x
            reader = moment.probe
            assert isinstance(reader, TextReader)
            losses.append(reader.differentiate(moment, x)[0])
            moved = super().prepare(x, moment)
            losses.append(reader.differentiate(moment, moved)[0])
            return moved

    settings: dict[str, Any] = {"mask": NoMask(), "batch_invariant": False}
    sample_latents(pipe, Watching(refinements=0, step_size=1.0), **settings)
    before, once = losses
    low = int(before.argmin())
    between = 1 - float(before.mean())
    losses.clear()
    guidance = Watching(
        refinements=5, refine_at=(0.0,), thresholds=(between,), step_size=1.0, until=0.25
    )
    sample_latents(pipe, guidance, **settings)
    _, after = losses
    assert torch.allclose(after[low], once[low]) and after[1 - low] < once[1 - low]


def test_steps_are_found_by_their_share() -> None:
    guidance = AttendAndExcite()
    targets = {i: guidance.find_target(i, 50) for i in range(1, 51)}
    found = {i: target for i, target in targets.items() if target is not None}
    assert found == pytest.approx({1: 0.95, 11: 0.5, 21: 0.2})
    assert [i for i in range(1, 51) if guidance.descends(i, 50)] == list(range(1, 26))
    assert [i for i in range(1, 11) if guidance.find_target(i, 10) is not None] == [1, 3, 5]
    assert guidance.find_target(1, 2) == pytest.approx(0.2)  # of all three the last
    sizes = [guidance.find_step_size(i, 3) for i in (1, 2, 3)]
    assert sizes == pytest.approx([20, 20 * 0.75**0.5, 20 * 0.5**0.5])
    assert guidance.find_step_size(1, 1) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": -1.0}, "guidance.step_size must be a finite number of at least 0"),
        ({"until": 2.0}, "guidance.until must be a number in"),
        ({"where": "background"}, "guidance.where must be one of all, subject"),
        ({"thresholds": (0.5,)}, "guidance.thresholds: 1 for 3 entries of refine_at"),
        ({"refine_at": 0.5}, "guidance.refine_at must be a list"),
        ({"thresholds": (0.1, 0.2, 3.0)}, "guidance.thresholds must be a number in"),
        ({"refinements": -1}, "guidance.refinements must be a whole number"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttendAndExcite(**settings)


def test_prompts_without_subjects_are_refused(pipe: Any) -> None:
    with pytest.raises(UserError, match="guidance 'attend_and_excite' needs subjects"):
        sample_latents(pipe, AttendAndExcite(), subjects=None, mask=NoMask())


def test_its_label_has_what_is_not_usual() -> None:
    assert AttendAndExcite(7.5).label == "attend_and_excite 20 7.5"
    changed = AttendAndExcite(7.5, step_size=5.0, until=0.25, where="subject", padding=True)
    assert changed.label == "attend_and_excite 5 until=0.25 where=subject padding=true 7.5"
    others = AttendAndExcite(refine_at=[0.0, 0.5], thresholds=[0.1, 0.2])
    assert others.label == "attend_and_excite 20 refine_at=0,0.5 thresholds=0.1,0.2"
    assert hash(AttendAndExcite(refine_at=[0.0], thresholds=[0.1])) is not None
