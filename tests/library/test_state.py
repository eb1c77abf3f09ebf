"""What a step goes on from, and where it is not what the last one left."""

from __future__ import annotations

import pytest
import torch

from asyndm.state import FloatState

X = torch.randn((1, 2, 3, 3), generator=torch.Generator().manual_seed(0))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@DTYPES
def test_what_comes_back_untouched_is_the_float32_state(dtype: torch.dtype) -> None:
    state = FloatState()
    x, moved = state.take(X.to(dtype))
    assert torch.equal(x, X.to(dtype).float()) and moved is None
    handed = state.hand_out(X, dtype)
    for sample in (handed, handed.clone()):
        x, moved = state.take(sample)
        assert torch.equal(x, X) and moved is None


@DTYPES
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_only_what_the_pipeline_changed_is_its_own(
    dtype: torch.dtype, inference: bool, in_place: bool
) -> None:
    state, changed = FloatState(), torch.zeros_like(X, dtype=torch.bool)
    changed[0, 1, 2] = True
    with torch.inference_mode(inference):
        handed = state.hand_out(X.clone(), dtype)
        sample = handed if in_place else handed.clone()
        sample[changed] = 7.0
        x, moved = state.take(sample)
    assert moved is not None and torch.equal(moved, changed)
    assert torch.equal(x, X.masked_fill(changed, 7.0))


def test_what_a_guidance_has_moved_is_gone_on_from() -> None:
    state = FloatState()
    handed = state.hand_out(X, torch.float32)
    other = X.clone()
    other[0, 0, 0, 0] += 1
    state.replace(other)
    x, moved = state.take(handed)
    assert x is other and moved is not None and moved.sum() == 1
    state.hand_out(other, torch.float32)
    assert state.take(handed)[1] is not None  # it is not what was handed out last


@DTYPES
def test_the_network_is_handed_the_float32_state_where_the_pipeline_changed_nothing(
    dtype: torch.dtype,
) -> None:
    """So a guidance that moves x, and a solver's history, go on from it at all other pixels."""
    state, changed = FloatState(), torch.zeros_like(X, dtype=torch.bool)
    rows = X.to(dtype)
    assert torch.equal(state.find(rows), rows.float())
    handed = state.hand_out(X, dtype)
    assert torch.equal(state.find(handed), X)
    changed[0, 1, 2] = True
    found = state.find(handed.masked_fill(changed, 7.0))
    assert torch.equal(found, X.masked_fill(changed, 7.0))
    state.replace(found.clone())
    moved = state.take(handed)[1]
    assert moved is not None and torch.equal(moved, changed)


def test_a_sample_of_another_shape_is_the_pipelines_own() -> None:
    state = FloatState()
    state.hand_out(X, torch.float32)
    x, moved = state.take(X[..., :2])
    assert torch.equal(x, X[..., :2]) and moved is not None and moved.all()
