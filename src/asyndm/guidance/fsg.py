"""Foresight: long zigzags in a few early steps, and CFG++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_number, is_whole
from asyndm.guidance.base import Cost, Guided, Outputs
from asyndm.guidance.cfg_plus_plus import CFGPlusPlus
from asyndm.guidance.z_sampling import count_inversion_rows

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment

PUBLISHED = ((0, 5, 2), (5, 5, 2), (15, 5, 1))
"""Of 40 steps, which with these cost 95 rows a picture: 50 without cost 100."""


@dataclass(frozen=True)
class FSG(CFGPlusPlus):
    """Foresight guidance (arXiv 2510.21512): in a few steps x is brought, by K fixed-point
    iterations, to where a long way down with the prompt and back without it ends where it began.

    With e_g = e_u + g (e_c - e_u), and DDIM of η = 0 from level t to the level t* where the pixel
    stands after `interval` updates, in each scheduled step K times

    - y = α* (x - σ e_g₁(x))/α + σ* e_g₁(x),
    - x ← α (y - σ* e_g₂(y))/α* + σ e_g₂(y), where the network is told the timestep t* of y.

    Then, as in every other step, x ← x - σ λ (e_c - e_u) and a step with e_u: that is CFG++.

    Every pixel has a t* of its own, by its mask as it is now; one that is parked in this step stays
    as it is, although the network sees it ahead as well. The noise comes in the step alone. The
    last step has no foresight: nothing leads back from the clean end. The published code does not
    make the intervals that its lists say: both moves are one step long, and with an exact ε they
    come back 0.01 to 0.035 beside x.

    Args:
        guidance_scale: g₁.
        scale, renoise_scale, matched: λ, ρ and which λ, of CFG++. Without a schedule λ = ρ = g₁ is
            classifier-free guidance.
        inversion_scale: g₂.
        schedule: of each scheduled step its start, counted from 0; the interval, which ends at the
            last evaluation at the latest; and K. Starts beyond the run are without effect.

    Raises:
        UserError: a scale that is no number, a schedule of another form, or one start twice.
    """

    scale: float = 1.0
    inversion_scale: float = 0.0
    schedule: Sequence[Sequence[int]] = PUBLISHED

    name = "fsg"
    scaled = True
    evaluates_more = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.inversion_scale, "guidance.inversion_scale")
        schedule = _read_schedule(self.schedule)
        if schedule is None:
            raise UserError(
                "guidance.schedule must be a list of [start, interval, K], whole numbers with "
                f"start >= 0, interval >= 1, K >= 1, and each start once, got {self.schedule!r}"
            )
        # Frozen as all else is: lists have no hash.
        object.__setattr__(self, "schedule", schedule)

    @property
    def details(self) -> str:
        """Those of CFG++, and what of its foresight is not the usual: "1 back at 1 at 0:5:2"."""
        words = [super().details]
        if self.inversion_scale:
            words.append(f"back at {self.inversion_scale:g}")
        if self.schedule != PUBLISHED:
            entries = " ".join(":".join(map(str, entry)) for entry in self.schedule)
            words.append(f"at {entries or 'no step'}")
        return " ".join(words)

    def find_foresight(self, step: int, steps: int) -> tuple[int, int]:
        """The interval and K of step 1 ... N; K = 0 where it has none."""
        scheduled = {start: (interval, times) for start, interval, times in self.schedule}
        return scheduled.get(step - 1, (0, 0)) if step < steps else (0, 0)

    def find_idle(self, steps: int) -> str:
        beyond = [str(start) for start, _, _ in self.schedule if start > steps - 2]
        if not beyond:
            return ""
        return (
            f"has no foresight at the starts {', '.join(beyond)} of its schedule in {steps} steps"
        )

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        """CFG++; where the step has foresight, e_g₁ to begin it with."""
        if self.find_foresight(moment.step, moment.steps)[1]:
            return Guided(outputs.guided)
        return super().combine(outputs, moment)

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        import torch

        from asyndm.steps import Move

        interval, times = self.find_foresight(moment.step, moment.steps)
        if not times:
            return moment.move(x, guided)
        ahead = moment.look_ahead(interval)
        moves = Move(moment.here.level, moment.there.level).changes
        for _ in range(times):
            y = moment.glide(x, guided, moment.here, ahead)
            back = Guided(moment.evaluate_at_scale(y, self.inversion_scale, ahead))
            x = torch.where(moves, moment.glide(y, back, ahead, moment.here), x)
            outputs = moment.evaluate(x)
            guided = Guided(outputs.guided)
        return moment.move(x, super().combine(outputs, moment))

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        own = super().count_rows(step, steps, rows)
        back = Cost(count_inversion_rows(self.inversion_scale))
        return own + (own + back) * self.find_foresight(step, steps)[1]


def _read_schedule(schedule: object) -> tuple[tuple[int, int, int], ...] | None:
    """The entries of a schedule; None: it is of another form."""
    if not isinstance(schedule, Sequence) or isinstance(schedule, str):
        return None
    entries: list[tuple[int, int, int]] = []
    for entry in schedule:
        if not isinstance(entry, Sequence) or len(entry) != 3 or not all(map(is_whole, entry)):
            return None
        start, interval, times = map(int, entry)
        if start < 0 or interval < 1 or times < 1:
            return None
        entries.append((start, interval, times))
    starts = {entry[0] for entry in entries}
    return tuple(entries) if len(starts) == len(entries) else None
