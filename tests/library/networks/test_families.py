"""All families served: the stock pipeline where all pixels are in step, and asynchronous where they
are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import asyndm
from asyndm.attention import Reading
from asyndm.networks import find_denoiser, find_family, list_families
from asyndm.records import StepRecord
from tests.library.networks.cases import (
    PLAIN,
    PROMPTS,
    SEEDS,
    SUBJECTS,
    build,
    compute_output,
    find_displacement,
    is_local,
    measure_distance,
    record_evaluations,
    sample_dm,
    sample_ours,
    sample_stock,
)
from tests.library.traces import find_traces

ROUNDING = 1e-4
"""One image alone and in a batch."""

by_name = pytest.mark.parametrize("name", PLAIN)


def test_every_family_is_here() -> None:
    tested = {type(find_family(build(name))) for name in PLAIN}
    assert {type(family) for family in list_families()} == tested


@by_name
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_dm_is_the_stock_pipeline(name: str, steps: int) -> None:
    expected, made = (
        sample_stock(name, num_inference_steps=steps),
        sample_dm(name, num_inference_steps=steps),
    )
    if (name, steps) == ("qwen", 1):  # its terminal shift divides by zero where there is one level
        assert expected.isnan().all() and made.isnan().all()
        return
    assert len(expected) == 2 and torch.isfinite(expected).all()
    assert measure_distance(made, expected) <= PLAIN[name]


@by_name
def test_one_prompt_is_the_stock_pipeline(name: str) -> None:
    one: dict[str, Any] = {"prompts": PROMPTS[1:], "seeds": SEEDS[1:], "num_inference_steps": 3}
    assert measure_distance(sample_dm(name, **one), sample_stock(name, **one)) <= PLAIN[name]


@by_name
def test_the_pipeline_is_the_stock_one_after_it_even_after_an_exception(name: str) -> None:
    def stop(record: StepRecord) -> None:
        if record.step == 2:
            raise RuntimeError("on purpose")

    pipe = build(name)
    networks = {part: net for part, net in pipe.components.items() if isinstance(net, nn.Module)}
    before = {part: find_traces(net) for part, net in networks.items()}
    scheduler, config, own = pipe.scheduler, dict(pipe.config), dict(pipe.scheduler.config)
    expected = sample_stock(name, num_inference_steps=3)
    sample_ours(name)
    for mask in (asyndm.NoMask(), asyndm.DynamicMask()):
        with pytest.raises(RuntimeError, match="on purpose"):
            sample_ours(name, mask=mask, callback=stop)
        assert pipe.scheduler is scheduler and dict(scheduler.config) == own
        assert dict(pipe.config) == config
        assert {part: find_traces(net) for part, net in networks.items()} == before
    assert torch.equal(sample_stock(name, num_inference_steps=3), expected)


@by_name
def test_asynchronous_pictures_are_others_than_dm_and_the_same_twice(name: str) -> None:
    made = sample_ours(name)
    assert torch.isfinite(made).all()
    assert measure_distance(made, sample_stock(name)) > 0.01
    assert torch.equal(sample_ours(name), made)


@by_name
def test_a_prompt_with_its_own_subjects_is_the_same_alone_and_in_a_batch(name: str) -> None:
    batch, one_by_one = sample_ours(name), sample_ours(name, batch_invariant=True)
    assert measure_distance(one_by_one, batch) <= ROUNDING
    for i in range(2):
        alone = sample_ours(
            name, prompts=PROMPTS[i : i + 1], subjects=SUBJECTS[i], seeds=SEEDS[i : i + 1]
        )
        assert measure_distance(alone, batch[i : i + 1]) <= ROUNDING
        assert torch.equal(alone, one_by_one[i : i + 1])


@by_name
def test_a_token_moves_the_output_most_where_it_is(name: str) -> None:
    assert is_local(name), find_displacement(name)


@by_name
def test_samples_of_a_batch_do_not_mix(name: str) -> None:
    pipe = build(name)
    family, arguments = find_family(pipe), record_evaluations(name, num_inference_steps=2)[0]
    shape = (family.batch(arguments), *family.grid(find_denoiser(pipe), arguments))
    levels = 2 + 16 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    moved = levels.clone()
    moved[0] *= 0.8
    first, second = (compute_output(pipe, arguments, each) for each in (levels, moved))
    assert measure_distance(second[1:], first[1:]) <= ROUNDING
    assert measure_distance(second[:1], first[:1]) > 1e-3


def sample_records(name: str, **changes: Any) -> list[StepRecord]:
    kept: list[StepRecord] = []
    sample_ours(name, callback=kept.append, **changes)
    return kept


@by_name
def test_reading_attention_changes_no_output(name: str) -> None:
    pipe = build(name)
    family, arguments = find_family(pipe), record_evaluations(name, num_inference_steps=2)[0]
    shape = (family.batch(arguments), *family.grid(find_denoiser(pipe), arguments))
    rungs = 2 + 16 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    reader = family.attention(find_denoiser(pipe), [[[1, 2], [3]]] * shape[0], Reading())
    read = compute_output(pipe, arguments, rungs, reader)
    assert torch.equal(read, compute_output(pipe, arguments, rungs))
    assert reader.maps().std() > 0


@by_name
def test_every_image_ends_on_the_last_level_whatever_its_way(name: str) -> None:
    steps = sample_records(name)
    assert [record.step for record in steps] == [1, 2, 3, 4, 5]
    assert (steps[-1].next_timesteps == 0).all()
    spread = [
        float((record.timesteps.amax((1, 2)) - record.timesteps.amin((1, 2))).max())
        for record in steps
    ]
    assert max(spread) > 1
