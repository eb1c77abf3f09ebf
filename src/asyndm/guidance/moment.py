"""One step of a run as its guidance sees it: where pixels stand, where they go, and the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from asyndm.guidance.base import Guided, Outputs, Probe
from asyndm.ladder import Level
from asyndm.solvers import DDIM
from asyndm.steps import Move, Prediction


@dataclass(frozen=True)
class Place:
    """Where every pixel stands.

    Args:
        rungs: (B, h, w) float64, of the tokens.
        level: (α, σ) maps spread over x: (B, 1, H, W), or packed (B, h w, 1).
    """

    rungs: Tensor
    level: Level


class Run(Protocol):
    """What a moment asks of the run it is of; see its methods of the same names."""

    @property
    def eta(self) -> float: ...

    @property
    def line(self) -> tuple[Place, Place]: ...

    @property
    def begins_with_noise(self) -> bool: ...

    @property
    def rehearses(self) -> bool: ...

    def move(self, x: Tensor, guided: Guided) -> Tensor: ...

    def look_ahead(self, updates: int) -> Place: ...

    def evaluate(self, x: Tensor, at: Place, scale: float) -> Outputs: ...

    def evaluate_at_scale(self, x: Tensor, at: Place, scale: float) -> Tensor: ...

    def differentiate(
        self, x: Tensor, at: Place, loss: Callable[[], Tensor], images: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]: ...

    def spread_weights(self, x: Tensor) -> Tensor: ...

    def draw_spare(self, like: Tensor) -> Tensor: ...


@dataclass
class Moment:
    """A step i from here to there, in which the network is evaluated.

    Args:
        step: i = 1 ... N.
        steps: N.
        guidance_scale: g, as the pipeline is called with.
        here: where pixels stand, α and σ.
        there: where they go in this step, α' and σ'; a parked pixel stays.
        timesteps: of `here`, spread over x, as the scheduler counts them.
        prediction: what the network's output means.
        probe: what the guidance reads in the network, or perturbs there.
        state: what the guidance keeps from step to step of one run.
    """

    step: int
    steps: int
    guidance_scale: float
    here: Place
    there: Place
    timesteps: Tensor
    prediction: Prediction
    probe: Probe | None
    state: dict[str, Any]
    _run: Run = field(repr=False)

    @property
    def line(self) -> tuple[Place, Place]:
        """Where a pixel on the straight line stands and where it goes, as all do without a mask."""
        return self._run.line

    @property
    def eta(self) -> float:
        """η of the step; of the last one in `Guidance.prepare`, where the pipeline has not said
        it."""
        return self._run.eta

    def move(self, x: Tensor, guided: Guided) -> Tensor:
        """The step itself, from here to there, by the run's solver, with its η and noise; once a
        step. A solver with a history forgets it where x is not what the step began with."""
        return self._run.move(x, guided)

    def glide(self, x: Tensor, guided: Guided, start: Place, end: Place) -> Tensor:
        """From one place to another, down or up, without noise: DDIM with η = 0 (arXiv 2010.02502,
        eq. 12), xₑ = αₑ x₀ + σₑ ε; up is its inversion."""
        move = Move(start.level, end.level, prediction=self.prediction)
        return DDIM().step(x, guided, move, {})[0]

    def look_ahead(self, updates: int) -> Place:
        """Where pixels stand after so many updates more under the mask of this step; 1 is `there`.
        Beyond the last evaluation of the run it is the place of that."""
        return self._run.look_ahead(updates)

    def evaluate(self, x: Tensor, at: Place | None = None) -> Outputs:
        """The network at x once more, with all that the step evaluates.

        Args:
            at: where pixels stand; None: here.

        Returns:
            `guided` is e_u + g (e_c - e_u) there.
        """
        return self._run.evaluate(x, at or self.here, self.guidance_scale)

    def evaluate_at_scale(self, x: Tensor, scale: float, at: Place | None = None) -> Tensor:
        """e_u + scale (e_c - e_u) at x; only one of them is evaluated where the scale is 0 or 1."""
        return self._run.evaluate_at_scale(x, at or self.here, scale)

    def differentiate(
        self, x: Tensor, loss: Callable[[], Tensor], images: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each image, (B,), and ∇ₓ of it, (B, ...), by one evaluation with the prompt.

        Args:
            loss: made of what the probe has read, once the network has run; (B,), of each image
                alone.
            images: which of the batch x is of, and which alone are evaluated; None: all.

        Raises:
            UserError: inside ``torch.inference_mode``.
        """
        return self._run.differentiate(x, self.here, loss, images)

    def spread_weights(self, x: Tensor) -> Tensor:
        """How far on the curve this step's mask has each pixel, 0 to 1, over x: (B, 1, H, W)."""
        return self._run.spread_weights(x)

    @property
    def begins_with_noise(self) -> bool:
        """Whether the run does, and not with a picture to change or to go on with."""
        return self._run.begins_with_noise

    @property
    def rehearses(self) -> bool:
        """Whether the run is the one before the run, of a mask that is found beforehand."""
        return self._run.rehearses

    def draw_spare(self, like: Tensor) -> Tensor:
        """Standard normal noise of each image's own generator, after all that its steps draw: those
        stay the same as under any other guidance.

        Raises:
            UserError: outside `asyndm.sample`, which alone knows the generators.
        """
        return self._run.draw_spare(like)

    def to_x0(self, x: Tensor, output: Tensor) -> Tensor:
        """D: the x₀ that an output predicts; clipped as the scheduler says."""
        return self.prediction(x, output, self.here.level)[0]

    def from_x0(self, x: Tensor, x0: Tensor) -> Tensor:
        """The output that predicts an x₀, the inverse of `to_x0` where nothing is clipped."""
        return self.prediction.invert(x, x0, self.here.level)

    def scale_to_x0(self, difference: Tensor) -> Tensor:
        """The difference of two outputs at the same x as that of their x₀: what is behind counts as
        much as what is ahead. Linear in the outputs."""
        nought = torch.zeros_like(difference)
        unbounded = Prediction(self.prediction.prediction_type)
        return unbounded(nought, difference, self.here.level)[0]

    def scale_from_x0(self, difference: Tensor) -> Tensor:
        """The difference of two outputs whose x₀ differ by this, the inverse of `scale_to_x0`."""
        nought = torch.zeros_like(difference)
        return self.prediction.invert(nought, difference, self.here.level)
