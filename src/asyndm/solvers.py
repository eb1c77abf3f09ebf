"""How a step is made of what the network predicts: one class a solver.

What a solver says of itself is read where runs are planned and found: so torch is imported by the
functions that compute, not here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from asyndm.choices import list_changes, to_snake_case
from asyndm.errors import UserError, is_number
from asyndm.guidance.base import Guided

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.ladder import Level
    from asyndm.steps import Move

History: TypeAlias = "MutableMapping[str, Tensor]"
"""What a multistep solver remembers in one run, for each pixel. Of those that are moved by anything
but a step it is forgotten, and the next step of these is of first order."""


@dataclass(frozen=True)
class Solver(ABC):
    """Takes every pixel from its level to its next one. A frozen value, which many runs may share:
    what changes in a run is its history.

    Attributes:
        name: what it is called where it is chosen, ``solver=ddim``; unless the class says another,
            its own name in words.
        flow: whether it is for flow matching alone (True), for diffusion alone (False), or for both
            (None).
        instead: what to choose for a model that it is not for.
        draws: whether η > 0 means anything to it.
        multistep: whether it remembers earlier evaluations.
        evaluations: of the network in each step but the last, which has one.
    """

    name: ClassVar[str]
    flow: ClassVar[bool | None] = None
    instead: ClassVar[str] = "solver=ddim"
    draws: ClassVar[bool] = True
    multistep: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.name = vars(cls).get("name", to_snake_case(cls.__name__))

    @property
    def label(self) -> str:
        """What it is called in tables: its name, and what is not as its class has it:
        "dpmpp_2m max_ratio=null"."""
        changed = list_changes(self, *(field.name for field in fields(self)))
        return f"{self.name} {changed}".rstrip()

    def check(self, flow: bool, eta: float = 0.0) -> None:
        """Refuse a model, or an η, that it is not for.

        Args:
            flow: whether the model is one of flow matching.
            eta: η of the run.
        """
        if self.flow is not None and self.flow != flow:
            kinds = {True: "flow matching", False: "diffusion"}
            raise UserError(
                f"solver={self.name} is for {kinds[self.flow]}, and this model is of "
                f"{kinds[flow]}: choose {self.instead}"
            )
        if eta > 0 and not self.draws:
            raise UserError(
                f"solver={self.name} draws no noise, but eta={eta:g}: set eta=0, or choose "
                "solver=ddim"
            )

    @abstractmethod
    def step(
        self,
        x: Tensor,
        guided: Guided,
        move: Move,
        history: History,
        evaluate: Callable[[Tensor], Guided] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step. A pixel whose level stays keeps its value, to the bit.

        Args:
            x: xₜ, (B, ...) float32.
            guided: of the network's outputs there.
            move: from which levels to which.
            history: of this run, empty before its first step.
            evaluate: what the network says of another x at the levels where the pixels go; None
                in the last step.

        Returns:
            xₛ, and x₀ as predicted at xₜ.
        """


@dataclass(frozen=True)
class DDIM(Solver):
    """First order, with any η (arXiv 2010.02502): xₛ = αₛ x₀ + √(σₛ² - v) ε + √v z. Of a flow with
    η = 0 it is Euler's step. At η = 0 it is stock Euler as well, at η = 1 stock Euler ancestral and
    SDE-DPM-Solver++ of first order."""

    name = "ddim"

    def step(
        self,
        x: Tensor,
        guided: Guided,
        move: Move,
        history: History,
        evaluate: Callable[[Tensor], Guided] | None = None,
    ) -> tuple[Tensor, Tensor]:
        return move.step(x, guided)


@dataclass(frozen=True)
class DPMSolverPlusPlus2M(Solver):
    """DPM-Solver++(2M), midpoint (arXiv 2211.01095, algorithm 2), at η = 0, its SDE form at η = 1,
    and a family between: DDIM with x₀ led on in λ = log(α/σ), and ε made anew from it.

    D = x₀ + c (x₀ - x₀_last), ε = (x - α D)/σ. It is the predictor of UniPC-2 (arXiv 2302.04867,
    B₂) as well. Stock has no max_ratio, and below 15 steps makes the last one of first order, which
    here is of second unless it goes to the clean end. With a ``renoise`` (CFG++) ε = (x - α Dᵤ)/σ,
    with Dᵤ led on from its own last value. x₀ is clipped before it is led on.

    Args:
        max_ratio: a pixel's step is taken to be at most so many times its last one: the last steps
            of a ladder that is even in timesteps are long ones in λ, and so are those of a pixel
            that was parked and catches up. None: as it is.

    Raises:
        UserError: a max_ratio that is no number of at least 0.
    """

    max_ratio: float | None = 2.0

    name = "dpmpp_2m"
    flow = False
    instead = "solver=ab2, which is of second order there"
    multistep = True

    def __post_init__(self) -> None:
        ratio = self.max_ratio
        if ratio is not None and (not is_number(ratio) or not 0 <= ratio < math.inf):
            raise UserError(
                f"solver.max_ratio={ratio!r}: must be a number of at least 0, or null for no limit"
            )

    def step(
        self,
        x: Tensor,
        guided: Guided,
        move: Move,
        history: History,
        evaluate: Callable[[Tensor], Guided] | None = None,
    ) -> tuple[Tensor, Tensor]:
        values = {"x0": move.predict(x, guided.output)[0]}
        if guided.renoise is not None:
            values["renoise"] = move.predict(x, guided.renoise)[0]
        ahead = lead_on(values, compute_log_ratio, move, history, self.max_ratio)
        alpha, sigma = move.level_t
        epsilon = (x - alpha * ahead.get("renoise", ahead["x0"])) / sigma
        return move.apply(x, ahead["x0"], epsilon), values["x0"]


@dataclass(frozen=True)
class Euler(DDIM):
    """First order, for flow matching: xₛ = xₜ + (σₛ - σₜ) v, v the network's output."""

    name = "euler"
    flow = True
    instead = "solver=ddim with eta=0, which is the same there"
    draws = False


@dataclass(frozen=True)
class AB2(Solver):
    """Adams and Bashforth's step of second order, for flow matching:
    xₛ = xₜ + Δ (v + Δ/(2 Δ_last) (v - v_last)), Δ = σₛ - σₜ of each pixel, v the network's output.

    Without a limit of Δ/Δ_last, which gains nothing: steps in σ are seldom many times their last.
    """

    name = "ab2"
    flow = True
    instead = "solver=dpmpp_2m, which is of second order there"
    draws = False
    multistep = True

    def step(
        self,
        x: Tensor,
        guided: Guided,
        move: Move,
        history: History,
        evaluate: Callable[[Tensor], Guided] | None = None,
    ) -> tuple[Tensor, Tensor]:
        values = {"output": guided.output}
        if guided.renoise is not None:
            values["renoise"] = guided.renoise
        ahead = lead_on(values, lambda level: level.sigma.double(), move, history)
        return move.step(x, replace(guided, **ahead))[0], move.predict(x, guided.output)[0]


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's step of second order, for flow matching: xₛ = xₜ + Δ (v + v')/2, with v' at the xₛ of
    Euler's step.

    Two evaluations a step; in the last step, and to the clean end, it is Euler's.
    """

    name = "heun"
    flow = True
    instead = AB2.instead
    draws = False
    evaluations = 2

    def step(
        self,
        x: Tensor,
        guided: Guided,
        move: Move,
        history: History,
        evaluate: Callable[[Tensor], Guided] | None = None,
    ) -> tuple[Tensor, Tensor]:
        import torch

        x_s, x0 = move.step(x, guided)
        if evaluate is None:
            return x_s, x0
        then = evaluate(x_s)
        mean = Guided((guided.output + then.output) / 2)
        if guided.renoise is not None and then.renoise is not None:
            mean = replace(mean, renoise=(guided.renoise + then.renoise) / 2)
        return torch.where(move.level_s.sigma > 0, move.step(x, mean)[0], x_s), x0


def compute_log_ratio(level: Level) -> Tensor:
    """λ = log(α/σ), float64: -∞ at α = 0, ∞ at the clean end."""
    alpha, sigma = (part.double() for part in level)
    return alpha.log() - sigma.log()


def lead_on(
    values: Mapping[str, Tensor],
    place: Callable[[Level], Tensor],
    move: Move,
    history: History,
    max_ratio: float | None = None,
) -> dict[str, Tensor]:
    """Each q on the line through its last value, half a step further: q + c (q - q_last), with
    c = h / (2 h_last) of each pixel. That makes a step of first order one of second.

    c = 0 where there is no last value, and where h or h_last is not finite. A pixel's last value is
    that of the evaluation before it last moved: one that is parked keeps it, and h_last is not 0.

    Args:
        values: q by name, each of x's shape.
        place: the coordinate of a level, float64, in which h and h_last are measured.
        move: the step, of h.
        history: of the run; q and where it was are remembered in it.
        max_ratio: h / h_last is taken to be at most this; None: as it is.
    """
    import torch

    now = place(move.level_t)
    last = history.get("place", torch.full_like(now, torch.nan))
    ratio = (place(move.level_s) - now) / (now - last)
    # Before the limit, which would make a number of a step to infinity, that is to the clean end.
    ratio = torch.where((ratio > 0) & (ratio < torch.inf), ratio, 0.0)
    c = ratio.clamp(max=torch.inf if max_ratio is None else max_ratio).float() / 2
    former = {name: history.get(name, value) for name, value in values.items()}
    history.clear()
    history["place"] = torch.where(move.changes, now, last)
    for name, value in values.items():
        history[name] = torch.where(move.changes, value, former[name])
    return {name: value + c * (value - former[name]) for name, value in values.items()}


def forget(history: History, moved: Tensor) -> None:
    """Of the pixels that were moved, bool of x's shape, in any channel, what `lead_on` remembers;
    of a solver that remembers otherwise, all."""
    import torch

    place = history.get("place")
    if place is None or moved.all():
        history.clear()
        return
    channels = 1 if moved.ndim == 4 else 2
    history["place"] = torch.where(moved.any(channels, keepdim=True), torch.nan, place)
