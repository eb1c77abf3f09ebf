"""A better noise to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_number, is_whole
from asyndm.guidance.attend_and_excite import AttendAndExcite
from asyndm.guidance.base import Cost, Probe

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment
    from asyndm.guidance.prompts import PromptTokens
    from asyndm.protocols import Network


@dataclass(frozen=True)
class InitNO(AttendAndExcite):
    """Initial noise optimisation, InitNO (arXiv 2404.04650), then Attend-and-Excite.

    Before the first step the noise ε becomes x = μ + e^(v/2) ε, with μ and v (C, H, W) found by
    Adam from μ = v = 0 on L = neglect + conflict: the loss of `AttendAndExcite`, and the mean over
    pairs of subjects of Σ min(a, b)/Σ (a + b), a and b the attention to the picture of the places
    where both subjects are attended to most. It ends where neglect and conflict are below their
    limits. If the run's own noise does not come so far, fresh ones are tried, and the one of least
    loss is taken up anew, for longer.

    x is to stay standard normal: after each update μ and v are shortened together such that
    KL = ½ mean(μ² + e^v - 1 - v) is about `kl_limit` at the most. The published code has Adam lower
    KL until then, which spoils its memory, adds a term for attention outside each subject's region,
    and searches although it is told not to.

    Fresh noises are drawn from each image's generator after all that its steps draw, so that those
    stay the same as without. An image is evaluated until it has come so far, whatever the others
    of its batch need.

    Args:
        refine_at, thresholds: of Attend-and-Excite; not before the first step, as published.
        noises: how many are tried, the run's own first; 0: none, which is `AttendAndExcite`.
        updates: at the most, of each of them.
        last_updates: of the best of them.
        learning_rate: of Adam.
        neglect_limit, conflict_limit: below which both are good enough.
        kl_limit: how far from a standard normal x may go.

    Raises:
        UserError: counts that are no whole numbers of at least 0, or limits below 0.
    """

    refine_at: Sequence[float] = (0.2, 0.4)
    thresholds: Sequence[float] = (0.5, 0.8)
    noises: int = 5
    updates: int = 10
    last_updates: int = 50
    learning_rate: float = 0.01
    neglect_limit: float = 0.2
    conflict_limit: float = 0.3
    kl_limit: float = 1e-3

    # By its capitals it would be "init_n_o".
    name = "init_no"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noises", "updates", "last_updates"):
            count = getattr(self, name)
            if not is_whole(count) or count < 0:
                raise UserError(
                    f"guidance.{name} must be a whole number of at least 0, got {count!r}"
                )
        for name in ("learning_rate", "neglect_limit", "conflict_limit", "kl_limit"):
            check_number(getattr(self, name), f"guidance.{name}", least=0)

    @property
    def searches(self) -> bool:
        """Whether the noise is searched at all."""
        return self.noises > 0 and self.updates + self.last_updates > 0

    def find_idle(self, steps: int) -> str:
        # Without a step of Attend-and-Excite it is the search alone, which does something.
        return "" if self.searches and not self.descends(1, steps) else super().find_idle(steps)

    @property
    def is_active(self) -> bool:
        return self.searches or super().is_active

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        if not self.searches:
            return super().make_probe(network, prompts)
        from asyndm.guidance.attention_losses import TextReader

        return TextReader(self.name, network, self.make_loss(prompts), prompts, reads_self=True)

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        """x of a better noise in step 1, and after the updates of every step.

        Raises:
            UserError: the run begins with a picture, not with noise.
        """
        if self.searches and moment.step == 1:
            if not moment.begins_with_noise:
                raise UserError(
                    "guidance=init_no searches the noise to begin with, and this call begins with "
                    "a picture: choose guidance=attend_and_excite"
                )
            from asyndm.guidance.noise_search import search_noise

            x = search_noise(self, x, moment)
        return super().prepare(x, moment)

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        own = super().count_rows(step, steps, rows)
        if step > 1 or not self.searches:
            return own
        most = self.noises * self.updates + self.last_updates
        return own + Cost(most, most, exact=False)
