"""Guidance in a part of the steps. No torch: it is read where runs are planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.guidance.base import ALL, Cost, Guidance, Guided, Outputs
from asyndm.guidance.perturbed import check_window

if TYPE_CHECKING:
    from asyndm.guidance.moment import Moment


@dataclass(frozen=True)
class Interval(Guidance):
    """Classifier-free guidance in a part of the steps, e_c alone in the others (arXiv 2404.07724):
    there the row of the negative prompt is not evaluated.

    A pipeline that calls its network a second time for the negative prompt (FLUX with a
    ``true_cfg_scale``) does so in all steps: what that says is then not used, and it costs as much
    as without an interval.

    The paper's interval is one of noise levels. Here it is one of steps, which is the same under
    every mask: pixels of a step stand at different levels, and one of them inside an interval of
    levels would have all rows evaluated.

    Args:
        start, stop: guided is step i = 1 ... N where start <= (i - 1) / N < stop; 0 and 1 are
            classifier-free guidance, to the bit.

    Raises:
        UserError: of the settings.
    """

    start: float = 0.0
    stop: float = 1.0

    needs_uncond = True
    networks = ALL

    def __post_init__(self) -> None:
        check_window(self.start, self.stop)

    @property
    def details(self) -> str:
        return f"{self.start:g}-{self.stop:g}"

    def drops_uncond(self, step: int, steps: int) -> bool:
        return not self.start <= (step - 1) / steps < self.stop

    def find_idle(self, steps: int) -> str:
        if not all(self.drops_uncond(i, steps) for i in range(1, steps + 1)):
            return ""
        own = f"from start={self.start:g} to below stop={self.stop:g}"
        return f"never guides, as none of {steps} steps lies {own}"

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        drops = self.drops_uncond(moment.step, moment.steps)
        return Guided(outputs.cond if drops else outputs.guided)

    def cost(
        self,
        steps: int,
        guided: bool = True,
        arguments: Mapping[str, Any] | None = None,
        evaluations: int = 1,
        until: int | None = None,
    ) -> Cost:
        total = super().cost(steps, guided, arguments, evaluations, until)
        if guided or self.evaluations(guided, arguments) == 1:
            return total
        # A pipeline that calls its network twice evaluates what is dropped, once a step.
        last = steps if until is None else until
        return total + Cost(sum(self.drops_uncond(i, steps) for i in range(1, last + 1)))
