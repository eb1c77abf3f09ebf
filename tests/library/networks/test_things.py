"""One region a thing, by the attention of any family of networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import asyndm
from asyndm.records import StepRecord
from asyndm.scene import Scene
from asyndm.subjects import Subject
from tests.library.networks.cases import measure_distance, sample_ours
from tests.library.networks.test_families import ROUNDING

by_name = pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
PROMPTS, SUBJECTS = ["two dogs", "a dog and a cat"], [["dogs"], ["dog", "cat"]]
COUNTS = [[2], [1, 1]]
STEPS, FIRST = 5, 2


def sample_records(name: str, mask: asyndm.Mask, **changes: Any) -> tuple[Tensor, list[StepRecord]]:
    kept: list[StepRecord] = []
    words = {"prompts": PROMPTS, "subjects": SUBJECTS, **changes}
    return sample_ours(name, mask=mask, callback=kept.append, **words), kept


@by_name
def test_regions_are_found_once_and_the_same_in_any_company(name: str) -> None:
    mask = asyndm.ThingsMask(threshold=1.0, grow=0)  # the maps are of few cells, and flat
    batch, records = sample_records(name, mask)
    weights = records[0].weights
    assert len(records) == STEPS and all(torch.equal(r.weights, weights) for r in records)
    assert weights[0, 0].any() and weights[1].flatten(1).any(1).all() and not weights[0, 1].any()
    assert not weights[1].all(0).any(), "things lie apart"
    for i, own in enumerate(SUBJECTS):
        alone, (first, *_) = sample_records(
            name, mask, prompts=[PROMPTS[i]], subjects=[own], seeds=[(3, 8)[i]]
        )
        assert torch.equal(first.weights[0], weights[i, : len(own)])
        assert measure_distance(alone, batch[i : i + 1]) <= ROUNDING


@by_name
def test_a_rehearsal_of_some_steps_has_their_maps_and_their_cost(name: str) -> None:
    mask = asyndm.ThingsMask(threshold=1.0, rehearsal_steps=FIRST)
    _, records = sample_records(name, mask)
    reads = asyndm.DynamicMask()
    _, straight = sample_records(name, reads, curve=asyndm.Linear())
    seen = [record.maps for record in straight[:FIRST]]
    first = records[0].weights
    named = [
        [Subject(text, count=count) for text, count in zip(texts, counts, strict=True)]
        for texts, counts in zip(SUBJECTS, COUNTS, strict=True)
    ]
    scene = Scene(torch.tensor([[0.5, -1], [0.5, 0.5]]).double(), first.shape[2:], named)  # type: ignore[arg-type]
    mean = torch.stack([each for each in seen if each is not None]).mean(0)
    assert len(seen) == FIRST and torch.equal(first, mask.initial(scene, lambda: mean))
    rows = straight[-1].evaluations // STEPS
    assert records[-1].evaluations == rows * (STEPS + FIRST)
    solved = sample_records(name, mask, solver=asyndm.solvers.Heun())[1] if name != "sd" else []
    assert all(r.evaluations == rows * (2 * (STEPS - 1) + 1 + 2 * FIRST) for r in solved[-1:])
    longer = asyndm.ThingsMask(threshold=1.0, rehearsal_steps=STEPS + 1)
    assert sample_records(name, longer)[1][-1].evaluations == rows * 2 * STEPS
