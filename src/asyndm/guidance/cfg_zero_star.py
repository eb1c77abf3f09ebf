"""Guidance of velocities away from the best multiple of the unconditional one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.choices import list_changes
from asyndm.errors import UserError, check_flag, is_whole
from asyndm.guidance.base import Guidance, Guided, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment


@dataclass(frozen=True)
class CFGZeroStar(Guidance):
    """v = s v_u + g (v_c - s v_u), s = ⟨v_c, v_u⟩/‖v_u‖² of each picture, and v = 0 in the first
    steps (CFG-Zero*, arXiv 2503.18886), for flow matching.

    Velocities have one scale at every noise level, so pixels ahead and behind count alike in s. A
    step of v = 0 leaves x as it is at η = 0, whatever noise level its pixels are taken to have
    reached; steps are counted, not levels. A solver of second order begins anew behind them.

    Args:
        zero_steps: how many steps have v = 0; the paper advises 4 % of them. Its code counts from
            0: ``zero_steps=0`` there is 1 here.
        rescale: whether s is that; False: 1.

    Raises:
        UserError: zero_steps that is no whole number of at least 0.
    """

    zero_steps: int = 1
    rescale: bool = True

    name = "cfg_zero_star"
    flow = True
    needs_uncond = True

    def __post_init__(self) -> None:
        if not is_whole(self.zero_steps) or self.zero_steps < 0:
            raise UserError(
                f"guidance.zero_steps must be a whole number of at least 0, got {self.zero_steps!r}"
            )
        check_flag(self.rescale, "guidance.rescale")

    @property
    def details(self) -> str:
        return list_changes(self, "zero_steps", "rescale")

    def find_idle(self, steps: int) -> str:
        own = f"zero_steps={self.zero_steps}"
        return (
            f"leaves x as it is in all {steps} steps, by {own}" if self.zero_steps >= steps else ""
        )

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        if moment.step <= self.zero_steps:
            return Guided(outputs.guided * 0)
        if not self.rescale:
            return Guided(outputs.guided)
        assert outputs.uncond is not None
        s = compute_multiple(outputs.cond, outputs.uncond)
        return Guided(outputs.guided + (1 - moment.guidance_scale) * (s - 1) * outputs.uncond)

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        # A solver must not lead on from a velocity of 0: it forgets what it has seen where x is
        # another tensor than the step began with.
        first = self.zero_steps and moment.step == self.zero_steps + 1
        return moment.move(x.clone() if first else x, guided)


def compute_multiple(cond: Tensor, uncond: Tensor) -> Tensor:
    """s: how often the unconditional velocity is in the conditional one, (B, 1, ...); least squares
    over each picture."""
    axes = tuple(range(1, cond.ndim))
    squared = uncond.square().sum(axes, keepdim=True)
    return (cond * uncond).sum(axes, keepdim=True) / (squared + 1e-8)
