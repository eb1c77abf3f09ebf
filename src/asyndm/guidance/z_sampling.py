"""Zigzag: denoise, go back, and denoise again in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_number, is_whole
from asyndm.guidance.base import Cost, Guidance, Guided

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment


def count_inversion_rows(inversion_scale: float) -> int:
    """Of each picture, for e_u + g₂ (e_c - e_u): at g₂ = 0 or 1 one of them is enough."""
    return 1 if inversion_scale in (0, 1) else 2


@dataclass(frozen=True)
class ZSampling(Guidance):
    """Z-Sampling (arXiv 2412.10891, algorithm 1): what a prompt adds at g₁ and an inversion at a
    lower g₂ does not take away again piles up in x.

    With DDIM of η = 0 from level t to t' and back, e_g = e_u + g (e_c - e_u), in each zigzag step:

    - y = α' (x - σ e_g₁(x))/α + σ' e_g₁(x),
    - x̃ = α (y - σ' e_g₂(y))/α' + σ e_g₂(y), where the network, as published, is told the timestep t
      of x,
    - then the step from x̃ with e_g₁(x̃), by the run's own η and noise.

    Each pixel has maps of its own for t and t'; one that is parked stays. The noise comes in the
    last move alone, so that draws are those of any other guidance. A step has one mask, and the
    next one's is made of the evaluation at x̃. The last step has no zigzag: nothing leads back from
    the clean end. The published code inverts from one level below t' (with an exact ε it comes back
    2e-3 to 6e-3 beside x); here it is from t'. g₂ = 1 is W2SD's (arXiv 2502.00473).

    Args:
        guidance_scale: g₁.
        inversion_scale: g₂.
        zigzags: in how many of the first steps; None: in all but the last. 0 is CFG.

    Raises:
        UserError: a g₂ that is no number, zigzags that are no whole number of at least 0.
    """

    inversion_scale: float = 0.0
    zigzags: int | None = None

    needs_uncond = True
    evaluates_more = True

    def __post_init__(self) -> None:
        check_number(self.inversion_scale, "guidance.inversion_scale")
        if self.zigzags is not None and (not is_whole(self.zigzags) or self.zigzags < 0):
            raise UserError(
                "guidance.zigzags must be a whole number of at least 0, or null for all steps but "
                f"the last, got {self.zigzags!r}"
            )

    @property
    def details(self) -> str:
        """Its g₂ and zigzags, where they are not the usual ones: "back at 1 in 12"."""
        back = f"back at {self.inversion_scale:g}" if self.inversion_scale else ""
        return " ".join(filter(None, [back, "" if self.zigzags is None else f"in {self.zigzags}"]))

    def turns(self, step: int, steps: int) -> bool:
        """Whether step 1 ... N has a zigzag."""
        return step < steps and (self.zigzags is None or step <= self.zigzags)

    def find_idle(self, steps: int) -> str:
        idle = self.zigzags != 0 and not self.turns(1, steps)
        return "makes no zigzag in a single step" if idle else ""

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        if self.turns(moment.step, moment.steps):
            y = moment.glide(x, guided, moment.here, moment.there)
            back = Guided(moment.evaluate_at_scale(y, self.inversion_scale, moment.here))
            x = moment.glide(y, back, moment.there, moment.here)
            guided = self.combine(moment.evaluate(x), moment)
        return moment.move(x, guided)

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        own = super().count_rows(step, steps, rows)
        if not self.turns(step, steps):
            return own
        return own * 2 + Cost(count_inversion_rows(self.inversion_scale))
