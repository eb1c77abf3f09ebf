"""The float32 state of a run, whatever the pipeline computes in."""

from __future__ import annotations

import torch
from torch import Tensor


class FloatState:
    """Gone on from as long as the pipeline hands back what it was given.

    Each step of half precision would round it anew, and the pixels that stand still would drift.
    At the pixels that the pipeline changed (inpainting, ``callback_on_step_end``) its own is taken.
    """

    def __init__(self) -> None:
        self._handed: tuple[Tensor, Tensor, int | None] | None = None
        self._replaced: Tensor | None = None

    def take(self, sample: Tensor) -> tuple[Tensor, Tensor | None]:
        """The state, and where it is not what the last step left, bool, of its shape; None:
        nowhere. Elsewhere it stays float32."""
        if self._handed is None:
            return sample.float() if self._replaced is None else self._replaced, None
        state, handed, changes = self._handed
        if self._replaced is not None:
            return self._replaced, self._replaced != state
        if sample is handed and changes is not None and sample._version == changes:
            return state, None
        if sample.shape != state.shape:
            return sample.float(), torch.ones_like(sample, dtype=torch.bool)
        x, moved = _merge(sample, state)
        return x, moved if moved.any() else None

    def find(self, rows: Tensor) -> Tensor:
        """The state, from what the network is handed of it."""
        if self._handed is None or rows.shape != (state := self._handed[0]).shape:
            return rows.float()
        return _merge(rows, state)[0]

    @property
    def is_replaced(self) -> bool:
        """Whether the step goes on from another x than it was handed."""
        return self._replaced is not None

    def replace(self, x: Tensor) -> None:
        """The step goes on from this one, whatever the pipeline hands back."""
        self._replaced = x

    def hand_out(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The state after a step, as the pipeline has it."""
        self._replaced = None
        # That it is the same tensor is not enough: pipelines also change theirs in place, so the
        # state is another one. Tensors of inference mode do not count their changes.
        handed = x.to(dtype, copy=True)
        self._handed = x, handed, None if handed.is_inference() else handed._version
        return handed


def _merge(sample: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state but where a sample is another, as far as its dtype can tell, and where it is."""
    moved = sample != state.to(sample.dtype)
    return sample.float().where(moved, state), moved
