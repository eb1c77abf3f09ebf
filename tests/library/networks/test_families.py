"""All families served: the stock pipeline where all pixels are in step, and asynchronous where they
are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import asyndm
from asyndm.attention import Reading
from asyndm.networks import denoiser, families, find_family
from asyndm.records import StepRecord
from tests.library.networks.cases import (
    PLAIN,
    PROMPTS,
    SEEDS,
    SUBJECTS,
    built,
    distance,
    dm,
    evaluations,
    is_local,
    largest_displacement,
    ours,
    output_of,
    stock,
)
from tests.library.traces import traces

ROUNDING = 1e-4
"""One image alone and in a batch."""

by_name = pytest.mark.parametrize("name", PLAIN)


def test_every_family_is_here() -> None:
    tested = {type(find_family(built(name))) for name in PLAIN}
    assert {type(family) for family in families()} == tested


@by_name
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_dm_is_the_stock_pipeline(name: str, steps: int) -> None:
    expected, made = stock(name, num_inference_steps=steps), dm(name, num_inference_steps=steps)
    if (name, steps) == ("qwen", 1):  # its terminal shift divides by zero where there is one level
        assert expected.isnan().all() and made.isnan().all()
        return
    assert len(expected) == 2 and torch.isfinite(expected).all()
    assert distance(made, expected) <= PLAIN[name]


@by_name
def test_one_prompt_is_the_stock_pipeline(name: str) -> None:
    one: dict[str, Any] = {"prompts": PROMPTS[1:], "seeds": SEEDS[1:], "num_inference_steps": 3}
    assert distance(dm(name, **one), stock(name, **one)) <= PLAIN[name]


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
    assert is_local(name), largest_displacement(name)


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
