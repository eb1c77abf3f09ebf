"""Guidance without what only saturates a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.choices import list_changes
from asyndm.errors import check_number
from asyndm.guidance.base import Guidance, Guided, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment


@dataclass(frozen=True)
class APG(Guidance):
    """D = D_c + (g - 1) (d⊥ + η d∥) (adaptive projected guidance, arXiv 2410.02416, algorithm 1).

    D_c, D_u are x₀ as predicted with and without the prompt, and d their difference:
    d ← D_c - D_u + β d_last, then d ← d min(1, r/‖d‖), whose part along D_c is d∥ and the rest d⊥.
    Norms and projections are those of the whole picture, and of x₀: there a pixel that is behind
    counts as one that is ahead. While all is noise the norm is that of the noisiest pixels.

    Written as a correction of the pipeline's own combination, (g - 1) (d⊥ + η d∥ - (D_c - D_u)),
    which is 0 with `parallel` 1, `rho` None and `momentum` 0.

    Args:
        parallel: η, how much is kept of the part along D_c.
        rho: ρ = r/√(C H W), the largest root mean square of d; None: any. It is 15/256 for the
            paper's r = 15 of 128x128 latents as for its 7.5 of 64x64.
        momentum: β, of d in the evaluation before; below 0 it leads away from that.

    Raises:
        UserError: a setting that is no number, or a rho below 0.
    """

    parallel: float = 0.0
    rho: float | None = 15 / 256
    momentum: float = -0.5

    name = "apg"
    needs_uncond = True

    def __post_init__(self) -> None:
        check_number(self.parallel, "guidance.parallel")
        check_number(self.momentum, "guidance.momentum")
        if self.rho is not None:
            check_number(self.rho, "guidance.rho", least=0)

    @property
    def details(self) -> str:
        return list_changes(self, "parallel", "rho", "momentum")

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        difference = moment.scale_to_x0(outputs.difference)
        update = self._lead(difference, moment)
        if self.parallel != 1:
            assert outputs.x is not None
            along = moment.to_x0(outputs.x, outputs.cond)
            update = update - (1 - self.parallel) * project(update, along)
        correction = (moment.guidance_scale - 1) * (update - difference)
        return Guided(outputs.guided + moment.scale_from_x0(correction))

    def _lead(self, difference: Tensor, moment: Moment) -> Tensor:
        """d, with momentum and within its norm."""
        if self.momentum:
            last = moment.state.get("update")
            if last is not None:
                difference = difference + self.momentum * last
            moment.state["update"] = difference
        if self.rho is None:
            return difference
        axes = tuple(range(1, difference.ndim))
        mean = difference.square().mean(axes, keepdim=True).sqrt()
        return difference * (self.rho / mean).clamp(max=1).where(mean > 0, 1.0)


def project(d: Tensor, onto: Tensor) -> Tensor:
    """d∥: the part of each picture of a batch that lies along another one; of x's shape."""
    axes = tuple(range(1, d.ndim))
    # float64: of a whole picture, where float32 would leave an error of the size of the last bits
    # of the longer part.
    long, short = onto.double(), d.double()
    squared = long.square().sum(axes, keepdim=True)
    share = (short * long).sum(axes, keepdim=True) / squared
    return (share.where(squared > 0, 0.0) * long).to(d.dtype)
