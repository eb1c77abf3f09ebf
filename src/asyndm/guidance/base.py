"""What leads a picture towards its prompt: the interface of every guidance. No torch: it is read
where runs are planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from asyndm.choices import to_snake_case

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment
    from asyndm.guidance.prompts import PromptTokens
    from asyndm.protocols import Network

UNETS = ("UNet",)
ALL = ("UNet", "SD3", "Flux")
"""Families of networks, by the names of their classes in `asyndm.networks`, for which a guidance
that looks into the network can be defined."""

ACTS = ("perturbs", "drops_uncond", "make_probe", "prepare", "combine", "step")
"""What a guidance does that the pipeline does not."""


@dataclass(frozen=True)
class Cost:
    """Rows of the network's batch for each picture; `exact`: this, or at most this."""

    forward: float
    backward: float = 0.0
    exact: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.exact and other.exact,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(self.forward * times, self.backward * times, self.exact)


@dataclass(frozen=True)
class Outputs:
    """Of the network in one evaluation, each (B, ...), as x is.

    Args:
        guided: e_u + g (e_c - e_u) as the pipeline itself combines them (``guidance_rescale`` and
            all).
        cond: e_c, with the prompt.
        uncond: e_u, with the negative or empty prompt; None: not evaluated.
        perturbed: ẽ_c, with the prompt and a perturbed network; None: not evaluated.
        x: what the network was given, float32.
    """

    guided: Tensor
    cond: Tensor
    uncond: Tensor | None = None
    perturbed: Tensor | None = None
    x: Tensor | None = None

    @property
    def difference(self) -> Tensor:
        """Δ = e_c - e_u."""
        assert self.uncond is not None
        return self.cond - self.uncond


@dataclass(frozen=True)
class Guided:
    """What a step is made with.

    Args:
        output: x₀ is predicted from it.
        renoise: the noise is predicted from it; None: from the same.
    """

    output: Tensor
    renoise: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Which rows of the network's batch are which, in one evaluation."""

    cond: slice
    uncond: slice | None = None
    perturbed: slice | None = None


class Probe(AbstractContextManager[Any], Protocol):
    """Removable hooks on a network, for the length of a call of the pipeline: they read its
    attention, or perturb some rows of its batch."""

    def begin(self, rows: Rows, grid: tuple[int, int]) -> None:
        """An evaluation begins.

        Args:
            grid: (h, w) of the image tokens.
        """

    def end(self) -> None:
        """It is over.

        Raises:
            UserError: a hook was never reached, so that nothing was perturbed, or read.
        """


@dataclass(frozen=True)
class Guidance:
    """ε = ε_uncond + g (ε_cond - ε_uncond), g = `guidance_scale`: what the pipeline itself does.

    A guidance says what is evaluated (`perturbs`, `drops_uncond`), what is made of it (`combine`),
    how a step goes if not straight on (`step`), and what is done to x before (`prepare`). It is a
    frozen value, which many runs may share: what changes in a run lives in ``moment.state``.

    Args:
        guidance_scale: g, an argument of the pipeline's call; None: as that call says.
        negative_prompt: one as well.

    Attributes:
        name: what it is called where it is chosen, ``guidance=seg``; unless the class says another,
            its own name in words.
        plain: whether the pipeline itself does all of it: the class has none of `ACTS` of its own.
        networks: families of networks it is defined on; None: on all that are served.
        flow: whether it is for flow matching alone (True), not for it (False), or for both (None).
        needs_uncond: asks for a pipeline that evaluates the negative prompt as well.
        needs_subjects: refuses prompts without subjects.
        needs_gradient: differentiates through the network.
        evaluates_more: calls the network again within a step.
        scaled: whether its `guidance_scale` says how strong it is, and is told in its label; False:
            that merely makes the pipeline evaluate the negative prompt as well.
    """

    guidance_scale: float | None = None
    negative_prompt: str | None = None

    name: ClassVar[str] = "cfg"
    plain: ClassVar[bool] = True
    networks: ClassVar[tuple[str, ...] | None] = None
    flow: ClassVar[bool | None] = None
    needs_uncond: ClassVar[bool] = False
    needs_subjects: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False
    evaluates_more: ClassVar[bool] = False
    scaled: ClassVar[bool] = True

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.name = vars(cls).get("name", to_snake_case(cls.__name__))
        cls.plain = all(getattr(cls, own) is getattr(Guidance, own) for own in ACTS)

    # --- what a guidance says of itself, and may say otherwise -----------------------------------

    @property
    def details(self) -> str:
        """What of its own settings its label tells: "3" for a scale."""
        return ""

    def perturbs(self, step: int, steps: int) -> bool:
        """Whether a third, perturbed row of each picture is evaluated in step 1 ... N."""
        return False

    def drops_uncond(self, step: int, steps: int) -> bool:
        """Whether the row of the negative prompt is left out in step 1 ... N."""
        return False

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        """What it reads in the network, or perturbs there; None: nothing.

        Args:
            prompts: of each image, where its subjects and their words are; none unless
                `needs_subjects`.

        Raises:
            UserError: the network has no such layer.
        """
        return None

    def prepare(self, x: Tensor, moment: Moment) -> Tensor:
        """x, or another one, just before the evaluation of a step."""
        return x

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        """What the step is made with."""
        return Guided(outputs.guided)

    def step(self, x: Tensor, guided: Guided, moment: Moment) -> Tensor:
        """x after the step."""
        return moment.move(x, guided)

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        """What step 1 ... N costs for each picture.

        Args:
            rows: of each picture in the pipeline's own batch: 2, or 1 without negative prompt.
        """
        own = rows - (rows > 1 and self.drops_uncond(step, steps)) + self.perturbs(step, steps)
        return Cost(own)

    def find_idle(self, steps: int) -> str:
        """Of settings that are without effect in N steps, what to say: "never guides, as ...";
        empty: there are none, or none but those that say so themselves, as a scale of 0 does."""
        return ""

    # --- the same for all ------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What it is called in tables: "5", "5 not 'blurry'", "seg 3 5"."""
        scale, negative = self.guidance_scale if self.scaled else None, self.negative_prompt
        name = "" if self.name == Guidance.name else self.name
        words = [name, self.details, "" if scale is None else f"{scale:g}"]
        return " ".join(filter(None, [*words, f"not {negative!r}" if negative else ""]))

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the pipeline's call, what the guidance sets."""
        own = {
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt or None,
        }
        return {name: value for name, value in own.items() if value is not None}

    def is_off(self, guided: bool = True) -> bool:
        """Whether nothing leads away from a negative prompt, so that one is without effect.

        Args:
            guided: whether the pipeline evaluates twice for a guidance_scale above 1. False: its
                network was distilled and is told the number, which says nothing of a negative
                prompt.
        """
        return guided and self.guidance_scale in (0, 1)

    def evaluations(self, guided: bool = True, arguments: Mapping[str, Any] | None = None) -> int:
        """Rows of each picture in the pipeline's own batch of a step.

        Args:
            guided: as in `is_off`. False: what makes the pipeline evaluate twice is a
                ``true_cfg_scale``, where there is a negative prompt.
            arguments: others of the pipeline's call.
        """
        given: Mapping[str, Any] = arguments or {}
        if guided:
            # A pipeline's own scale is above 1 in all of diffusers, or it would not guide.
            scale = self.guidance_scale
            scale = given.get("guidance_scale") if scale is None else scale
            return 1 if scale is not None and scale <= 1 else 2
        negative = self.negative_prompt or given.get("negative_prompt")
        return 2 if negative is not None and (given.get("true_cfg_scale") or 0) > 1 else 1

    def cost(
        self,
        steps: int,
        guided: bool = True,
        arguments: Mapping[str, Any] | None = None,
        evaluations: int = 1,
        until: int | None = None,
    ) -> Cost:
        """What a picture costs.

        Args:
            steps: N.
            guided, arguments: as in `evaluations`.
            evaluations: of the solver in each step but the last, which has one.
            until: the last step that counts; None: N.
        """
        rows, total = self.evaluations(guided, arguments), Cost(0.0)
        for i in range(1, (steps if until is None else until) + 1):
            total += self.count_rows(i, steps, rows) * (evaluations if i < steps else 1)
        return total
