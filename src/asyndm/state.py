"""The float32 state of a run, whatever the pipeline computes in."""

from __future__ import annotations

import torch
from torch import Tensor


class FloatState:
    """Gone on from as long as the pipeline hands back what it was given.

    Each step of half precision would round it anew, and the pixels that stand still would drift.
    Where the pipeline changed it (inpainting, ``callback_on_step_end``) its own is taken.
    """

    def __init__(self) -> None:
        self._handed: tuple[Tensor, Tensor, int | None] | None = None
        self._replaced: Tensor | None = None

    def take(self, sample: Tensor) -> tuple[Tensor, bool]:
        """The state, and whether it is what the last step left: not the pipeline's own sample, and
        not what has replaced it."""
        if self._replaced is not None:
            return self._replaced, False
        if self._handed is not None:
            state, handed, changes = self._handed
            if sample is handed and (
                sample._version == changes if changes is not None else is_same(sample, state)
            ):
                return state, True
        return sample.float(), False

    def find(self, rows: Tensor) -> Tensor:
        """The state, from what the network is handed of it."""
        if self._handed is not None and is_same(rows, self._handed[0]):
            return self._handed[0]
        return rows.float()

    def replace(self, x: Tensor) -> None:
        """The step goes on from this one, whatever the pipeline hands back."""
        self._replaced = x

    def hand_out(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The state after a step, as the pipeline has it."""
        handed = x.to(dtype)
        self._replaced = None
        # That it is the same tensor is not enough: pipelines also change theirs in place. Tensors
        # of inference mode do not count their changes, so these are compared by value.
        self._handed = x, handed, None if handed.is_inference() else handed._version
        return handed


def is_same(sample: Tensor, state: Tensor) -> bool:
    """Whether a sample is still the state, as far as its dtype can tell."""
    return torch.equal(sample, state.to(sample.dtype))
