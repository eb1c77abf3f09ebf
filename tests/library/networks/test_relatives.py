"""Pipelines that share their parts with one in the registry: the same network in another loop."""

from __future__ import annotations

import pytest
import torch

from asyndm.networks import list_families
from tests.library.networks.cases import (
    PLAIN,
    VARIANTS,
    build,
    measure_distance,
    sample_dm,
    sample_ours,
    sample_stock,
)
from tests.library.networks.relatives import RELATIVES, build_relative

LIMIT = 1e-6


@pytest.mark.parametrize("name", RELATIVES)
def test_dm_is_the_stock_pipeline_and_asynchronous_pictures_are_others(name: str) -> None:
    base, more = RELATIVES[name]
    pipe, call = build_relative(name), {"num_inference_steps": 5, **more}
    expected = sample_stock(base, pipe, **call)
    assert torch.isfinite(expected).all()
    assert measure_distance(sample_dm(base, pipe, **call), expected) <= LIMIT
    made = sample_ours(base, pipe, **call)
    assert measure_distance(made, expected) > 1e-3
    assert measure_distance(sample_ours(base, pipe, batch_invariant=True, **call), made) < 1e-3
    assert torch.equal(sample_stock(base, pipe, **call), expected)


def test_every_pipeline_that_is_served_is_tested() -> None:
    tested = {type(build(name)).__name__ for name in (*PLAIN, *VARIANTS)} | set(RELATIVES)
    assert {name for family in list_families() for name in family.pipelines} == tested
