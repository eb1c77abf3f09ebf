"""No subject neglected: each is to be attended to somewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_flag, check_fraction, is_whole
from asyndm.guidance.attention_descent import AttentionDescent

if TYPE_CHECKING:
    from asyndm.guidance.attention_losses import AttentionLoss
    from asyndm.guidance.prompts import PromptTokens

REFINED = (0.0, 0.2, 0.4)
"""Before which share of the steps x is refined: steps 1, 11 and 21 of 50."""


@dataclass(frozen=True)
class AttendAndExcite(AttentionDescent):
    """Attend-and-Excite (arXiv 2301.13826, algorithm 1): x ← x - ηᵢ ∇ₓ L, with

    L = maxₛ (1 - maxₚ Aₛ(p)),

    where Aₛ is softmax(100 A) over the tokens of the prompt, the share of those of subject s, under
    a Gaussian of 3x3 places (σ = 1/√2, reflected at the border), and ηᵢ = η √(1 - ½ (i-1)/(N-1)).
    In a few steps the update is repeated until L is at most 1 - threshold.

    Subjects of several tokens ("red car") have the sum of theirs: of a mean of two no place could
    have more than ½, whatever the threshold. As published, a subject is one token.

    The published code takes the softmax over the padding as well, but for Stable Diffusion 2.1,
    where padding would swallow it (`padding`). It also moves x once more after it has reached a
    threshold, and evaluates three rows in each repetition; here, as in the algorithm, it is one.
    A prompt of a single token has nothing to be told from, and is left as it is.

    Args:
        step_size: η.
        refine_at: before which share of the steps updates are repeated: [0, 0.2, 0.4] are steps 1,
            11 and 21 of 50.
        thresholds: of each of them, how much attention each subject is to have somewhere.
        refinements: how often at the most; 0: never, and the cost is known beforehand.
        padding: whether the softmax is over the tokens behind the words as well.

    Raises:
        UserError: lists of different lengths, or not of numbers in [0, 1]; refinements that are no
            whole number of at least 0.
    """

    refine_at: Sequence[float] = REFINED
    thresholds: Sequence[float] = (0.05, 0.5, 0.8)
    refinements: int = 20
    padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("refine_at", "thresholds"):
            entries = getattr(self, name)
            if not isinstance(entries, Sequence) or isinstance(entries, str):
                raise UserError(f"guidance.{name} must be a list of numbers, got {entries!r}")
            for entry in entries:
                check_fraction(entry, f"guidance.{name}")
            # Frozen as the rest is: a value has a hash.
            object.__setattr__(self, name, tuple(entries))
        if len(self.refine_at) != len(self.thresholds):
            raise UserError(
                f"guidance.thresholds: {len(self.thresholds)} for {len(self.refine_at)} entries of "
                "refine_at, give one each"
            )
        if not is_whole(self.refinements) or self.refinements < 0:
            raise UserError(
                "guidance.refinements must be a whole number of at least 0, "
                f"got {self.refinements!r}"
            )
        check_flag(self.padding, "guidance.padding")

    def make_loss(self, prompts: Sequence[PromptTokens]) -> AttentionLoss:
        from asyndm.guidance.attention_losses import Neglect

        return Neglect(prompts, self.padding)

    def find_step_size(self, step: int, steps: int) -> float:
        return self.step_size * math.sqrt(1 - 0.5 * (step - 1) / max(1, steps - 1))

    def find_target(self, step: int, steps: int) -> float | None:
        """1 - threshold; where a few steps are that of two thresholds, of the later one."""
        if not self.refinements:
            return None
        targets = {
            find_step(share, steps): 1 - threshold
            for share, threshold in zip(self.refine_at, self.thresholds, strict=True)
        }
        return targets.get(step)

    def find_idle(self, steps: int) -> str:
        idle = super().find_idle(steps)
        if idle or not self.refinements or not self.descends(1, steps):
            return idle
        late = [
            f"{share:g}"
            for share in self.refine_at
            if not self.descends(find_step(share, steps), steps)
        ]
        own = f"{', '.join(late)} of {steps} steps, which is later than until={self.until:g}"
        return f"does not refine x at {own}" if late else ""

    @property
    def most_updates(self) -> int:
        return 1 + self.refinements


def find_step(share: float, steps: int) -> int:
    """The step 1 ... N before which so large a share of them has been made."""
    return math.floor(share * steps + 1e-9) + 1
