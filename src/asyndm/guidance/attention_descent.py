"""Moving x down the gradient of a loss of attention, before the evaluation of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from asyndm.errors import UserError, check_fraction, check_number, is_number, say_once
from asyndm.guidance.base import UNETS, Cost, Guidance, Probe

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.attention_losses import AttentionLoss
    from asyndm.guidance.moment import Moment
    from asyndm.guidance.prompts import PromptTokens
    from asyndm.protocols import Network

WHERE = ("all", "subject")


@dataclass(frozen=True)
class AttentionDescent(Guidance, ABC):
    """x ← x - ηᵢ ∇ₓ L in the first steps, each at the price of one evaluation with the prompt and
    one gradient; then the step as CFG makes it.

    L is made of the cross-attention at a quarter of the latents' size (else at the finest there
    is), mean over heads and layers. Each pixel stands at its own noise level meanwhile; since
    latents have unit variance at all of them, η needs no scale. Losses are of each image alone, so
    images do not depend on their batch, and the mask of a step is made of its guided evaluation.

    Args:
        step_size: η of the first step; 0 is CFG.
        until: in which share of the steps, from the first on.
        where: x is moved at "all" pixels; or at those of the "subject", as far as the mask has them
            on the curve, so that the others, which are further on, stay. Where it has none there,
            as with ``mask=none``, nothing is moved and nothing evaluated.

    Raises:
        UserError: a step_size below 0, an `until` outside [0, 1], or another `where`.
    """

    step_size: float = 20.0
    until: float = 0.5
    where: str = "all"

    networks = UNETS
    needs_subjects = True
    needs_gradient = True

    def __post_init__(self) -> None:
        check_number(self.step_size, "guidance.step_size", least=0)
        check_fraction(self.until, "guidance.until")
        if self.where not in WHERE:
            raise UserError(f"guidance.where must be one of {', '.join(WHERE)}, got {self.where!r}")

    @property
    def details(self) -> str:
        """Its η, and what else is not the usual: "20 until=0.3 where=subject"."""
        shown = ("guidance_scale", "negative_prompt", "step_size")
        changed = [
            f"{each.name}={spell(getattr(self, each.name))}"
            for each in fields(self)
            if each.name not in shown and getattr(self, each.name) != each.default
        ]
        return " ".join([f"{self.step_size:g}", *changed])

    @abstractmethod
    def make_loss(self, prompts: Sequence[PromptTokens]) -> AttentionLoss:
        """L."""

    def find_step_size(self, step: int, steps: int) -> float:
        """ηᵢ in step 1 ... N."""
        return self.step_size

    def find_target(self, step: int, steps: int) -> float | None:
        """At which loss no further update is made in a step; None: after the first."""
        return None

    @property
    def most_updates(self) -> int:
        """In a step that has a target."""
        return 1

    @property
    def is_active(self) -> bool:
        """Whether it does anything in any step."""
        return self.step_size > 0 and self.until > 0

    def descends(self, step: int, steps: int) -> bool:
        """Whether x is moved in step 1 ... N."""
        return self.step_size > 0 and step <= self.until * steps + 1e-9

    def find_idle(self, steps: int) -> str:
        idle = self.step_size > 0 and self.until > 0 and not self.descends(1, steps)
        return (
            f"moves nothing, as none of {steps} steps is within until={self.until:g}"
            if idle
            else ""
        )

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        """Reads the attention to all tokens; None: nothing to do."""
        if not self.is_active:
            return None
        from asyndm.guidance.attention_losses import TextReader

        return TextReader(self.name, network, self.make_loss(prompts), prompts)

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        """x after the updates of the step."""
        if not self.descends(moment.step, moment.steps):
            return x
        import torch

        from asyndm.guidance.attention_losses import TextReader

        reader = moment.probe
        assert isinstance(reader, TextReader)
        going = [image for image in range(len(x)) if reader.loss.is_defined(image)]
        if not going:
            return x
        sizes = x.new_full((len(x), 1, 1, 1), self.find_step_size(moment.step, moment.steps))
        if self.where == "subject":
            weights = moment.spread_weights(x)
            on_curve = weights.flatten(1).any(1).tolist()
            going = [image for image in going if on_curve[image]]
            if not going:
                self._notice_rest(moment)
                return x
            moment.state["moved"] = True
            sizes = sizes * weights
        target = self.find_target(moment.step, moment.steps)
        for _ in range(1 if target is None else self.most_updates):
            place = torch.tensor(going, device=x.device)
            chosen = x[place]
            losses, gradient = reader.differentiate(moment, chosen, going)
            x = x.index_copy(0, place, chosen - sizes[place] * gradient)
            if target is None:
                break
            above = (losses > target).tolist()
            going = [image for image, goes in zip(going, above, strict=True) if goes]
            if not going:
                break
        return x

    def _notice_rest(self, moment: Moment) -> None:
        """Say so where no step has moved anything."""
        last = not self.descends(moment.step + 1, moment.steps)
        if last and not moment.rehearses and not moment.state.get("moved"):
            say_once(
                f"guidance={self.name}: where=subject has moved nothing, as the mask had no pixel "
                "on the curve: choose where=all, or another mask"
            )

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        own = super().count_rows(step, steps, rows)
        if not self.descends(step, steps):
            return own
        most = 1 if self.find_target(step, steps) is None else self.most_updates
        return own + Cost(most, most, exact=most == 1 and self.where == "all")


def spell(value: object) -> str:
    """A setting as one writes it: "0.3", "true", "0,0.2,0.4"."""
    if isinstance(value, tuple):
        return ",".join(map(spell, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if is_number(value) else str(value)
