"""Pipelines that share their parts with one in the registry: the same network in another loop."""

from __future__ import annotations

import pytest
import torch

from asyndm.networks import families
from tests.library.networks.cases import PLAIN, VARIANTS, built, distance, dm, ours, stock
from tests.library.networks.relatives import RELATIVES, relative

LIMIT = 1e-6


@pytest.mark.parametrize("name", RELATIVES)
def test_dm_is_the_stock_pipeline_and_asynchronous_pictures_are_others(name: str) -> None:
    base, more = RELATIVES[name]
    pipe, call = relative(name), {"num_inference_steps": 5, **more}
    expected = stock(base, pipe, **call)
    assert torch.isfinite(expected).all()
    assert distance(dm(base, pipe, **call), expected) <= LIMIT
    made = ours(base, pipe, **call)
    assert distance(made, expected) > 1e-3
    assert distance(ours(base, pipe, batch_invariant=True, **call), made) < 1e-3
    assert torch.equal(stock(base, pipe, **call), expected)


def test_every_pipeline_that_is_served_is_tested() -> None:
    tested = {type(built(name)).__name__ for name in (*PLAIN, *VARIANTS)} | set(RELATIVES)
    assert {name for family in families() for name in family.pipelines} == tested
