"""All families served: the stock pipeline where all pixels are in step, and asynchronous where they
are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import asyndm
from asyndm.attention import Reading
from asyndm.networks import denoiser, families, find_family
from asyndm.scheduler import StepRecord
from tests.library.networks.cases import (
    PROMPTS,
    SEEDS,
    SUBJECTS,
    built,
    distance,
    dm,
    evaluations,
    on_grid,
    ours,
    output_of,
    stock,
)
from tests.library.traces import traces

LIMITS = {
    "sd": 0.0,
    "sdxl": 0.0,
    "sd3": 0.0,
    "sd35": 0.0,
    "sd3_clips": 0.0,
    "flux": 0.0,
    "flux_schnell": 0.0,
    "sana": 0.0,
    "qwen": 0.0,
    "pixart": 1e-6,
    "pixart_alpha": 1e-6,
    "flux2": 0.0,
    "flux2_klein": 0.0,
    "chroma": 0.0,
    "auraflow": 0.0,
    "cogview4": 0.0,
    "lumina2": 0.0,
    "zimage": 0.0,
    "hidream": 0.0,
    "hunyuandit": 0.0,
}
"""How far DM may be from the stock pipeline, over its largest: PixArt's DDIM is written with other
roots."""
ROUNDING = 1e-4
"""One image alone and in a batch."""

by_name = pytest.mark.parametrize("name", LIMITS)


def test_every_family_is_here() -> None:
    tested = {type(find_family(built(name))) for name in LIMITS}
    assert {type(family) for family in families()} == tested


@by_name
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_dm_is_the_stock_pipeline(name: str, steps: int) -> None:
    expected, made = stock(name, num_inference_steps=steps), dm(name, num_inference_steps=steps)
    if (name, steps) == ("qwen", 1):  # its terminal shift divides by zero where there is one level
        assert expected.isnan().all() and made.isnan().all()
        return
    assert len(expected) == 2 and torch.isfinite(expected).all()
    assert distance(made, expected) <= LIMITS[name]


@by_name
def test_one_prompt_is_the_stock_pipeline(name: str) -> None:
    one: dict[str, Any] = {"prompts": PROMPTS[1:], "seeds": SEEDS[1:], "num_inference_steps": 3}
    assert distance(dm(name, **one), stock(name, **one)) <= LIMITS[name]


@by_name
def test_the_pipeline_is_the_stock_one_after_it_even_after_an_exception(name: str) -> None:
    def stop(record: StepRecord) -> None:
        if record.step == 2:
            raise RuntimeError("on purpose")

    pipe = built(name)
    networks = {part: net for part, net in pipe.components.items() if isinstance(net, nn.Module)}
    before = {part: traces(net) for part, net in networks.items()}
    scheduler, config, own = pipe.scheduler, dict(pipe.config), dict(pipe.scheduler.config)
    expected = stock(name, num_inference_steps=3)
    ours(name)
    for mask in (asyndm.NoMask(), asyndm.DynamicMask()):
        with pytest.raises(RuntimeError, match="on purpose"):
            ours(name, mask=mask, callback=stop)
        assert pipe.scheduler is scheduler and dict(scheduler.config) == own
        assert dict(pipe.config) == config
        assert {part: traces(net) for part, net in networks.items()} == before
    assert torch.equal(stock(name, num_inference_steps=3), expected)


@by_name
def test_asynchronous_pictures_are_others_than_dm_and_the_same_twice(name: str) -> None:
    made = ours(name)
    assert torch.isfinite(made).all()
    assert distance(made, stock(name)) > 0.01
    assert torch.equal(ours(name), made)


@by_name
def test_a_prompt_with_its_own_subjects_is_the_same_alone_and_in_a_batch(name: str) -> None:
    batch, one_by_one = ours(name), ours(name, batch_invariant=True)
    assert distance(one_by_one, batch) <= ROUNDING
    for i in range(2):
        alone = ours(name, prompts=PROMPTS[i : i + 1], subjects=SUBJECTS[i], seeds=SEEDS[i : i + 1])
        assert distance(alone, batch[i : i + 1]) <= ROUNDING
        assert torch.equal(alone, one_by_one[i : i + 1])


@by_name
def test_a_token_moves_the_output_most_where_it_is(name: str) -> None:
    pipe = copy.copy(built(name))
    if hasattr(pipe, "unet"):
        # The convolutions of the shared one are loud enough to carry a change anywhere. As it is,
        # the first pixel of a coarse cell, which is that of all the cell, moves the whole cell.
        torch.manual_seed(0)
        pipe.register_modules(unet=type(pipe.unet).from_config(pipe.unet.config).eval())
    family, arguments = find_family(pipe), evaluations(name, pipe, num_inference_steps=2)[0]
    h, w = family.grid(denoiser(pipe), arguments)
    base = torch.full((family.batch(arguments), h, w), 16.0)
    expected = output_of(pipe, arguments, base)
    for place in ((0, 0), (h - 1, w - 1), (0, w - 1), (h // 2, 3), (3, w // 2)):
        moved = base.clone()
        moved[:, place[0], place[1]] = 8
        change = on_grid(output_of(pipe, arguments, moved) - expected, (h, w)).norm(dim=0)
        peak = divmod(int(change.argmax()), w)
        assert max(abs(peak[0] - place[0]), abs(peak[1] - place[1])) <= (2 if family.picture else 0)


@by_name
def test_samples_of_a_batch_do_not_mix(name: str) -> None:
    pipe = built(name)
    family, arguments = find_family(pipe), evaluations(name, num_inference_steps=2)[0]
    shape = (family.batch(arguments), *family.grid(denoiser(pipe), arguments))
    levels = 2 + 16 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    moved = levels.clone()
    moved[0] *= 0.8
    first, second = (output_of(pipe, arguments, each) for each in (levels, moved))
    assert distance(second[1:], first[1:]) <= ROUNDING
    assert distance(second[:1], first[:1]) > 1e-3


def records(name: str, **changes: Any) -> list[StepRecord]:
    kept: list[StepRecord] = []
    ours(name, callback=kept.append, **changes)
    return kept


@by_name
def test_reading_attention_changes_no_output(name: str) -> None:
    pipe = built(name)
    family, arguments = find_family(pipe), evaluations(name, num_inference_steps=2)[0]
    shape = (family.batch(arguments), *family.grid(denoiser(pipe), arguments))
    rungs = 2 + 16 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    reader = family.attention(denoiser(pipe), [[[1, 2], [3]]] * shape[0], Reading())
    read = output_of(pipe, arguments, rungs, reader)
    assert torch.equal(read, output_of(pipe, arguments, rungs))
    assert reader.maps().std() > 0


@by_name
def test_every_image_ends_on_the_last_level_whatever_its_way(name: str) -> None:
    steps = records(name)
    assert [record.step for record in steps] == [1, 2, 3, 4, 5]
    assert (steps[-1].next_timesteps == 0).all()
    spread = [
        float((record.timesteps.amax((1, 2)) - record.timesteps.amin((1, 2))).max())
        for record in steps
    ]
    assert max(spread) > 1
