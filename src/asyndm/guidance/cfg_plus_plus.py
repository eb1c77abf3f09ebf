"""Guidance of the picture, and not of the noise that is put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.errors import check_flag, check_number
from asyndm.guidance.base import Guidance, Guided, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment
    from asyndm.ladder import Level


@dataclass(frozen=True)
class CFGPlusPlus(Guidance):
    """x₀ from e_u + λ Δ, the noise from e_u (CFG++, arXiv 2406.08070, algorithm 2), Δ = e_c - e_u.

    It is classifier-free guidance of the scale g(p) = (λ - ρ q(p))/(1 - q(p)) at each pixel, where
    q = (αₜ/αₛ) √(σₛ² - v)/σₜ is what a step leaves of the noise: e⁻ʰ at η = 0, e⁻²ʰ at η = 1, with
    h its length in log(α/σ). So the same λ is a stronger guidance in more steps and at a lower η,
    and pixels that go further in a step are guided less. A flow has the same formula, with
    α = 1 - σ. The last step returns x₀.

    The pipeline's own ``guidance_scale`` is without effect, but must be above 1, so that the
    pipeline evaluates both prompts.

    Args:
        scale: λ.
        renoise_scale: ρ, the noise is that of e_u + ρ Δ: 0 is CFG++, λ classifier-free guidance.
        matched: whether λ(p) = ρ + (λ - ρ) (1 - q(p))/(1 - q), with q that of a pixel on the
            straight line, which guides every pixel as strongly as the synchronous method does;
            False: λ everywhere, as published.

    Raises:
        UserError: a scale that is no number of at least 0, or a `matched` that is no bool.
    """

    scale: float = 0.6
    renoise_scale: float = 0.0
    matched: bool = False

    name = "cfg_plus_plus"
    needs_uncond = True
    scaled = False

    def __post_init__(self) -> None:
        check_number(self.scale, "guidance.scale", least=0)
        check_number(self.renoise_scale, "guidance.renoise_scale", least=0)
        check_flag(self.matched, "guidance.matched")

    @property
    def details(self) -> str:
        renoise = f"renoise {self.renoise_scale:g}" if self.renoise_scale else ""
        words = [f"{self.scale:g}", renoise, "matched" if self.matched else ""]
        return " ".join(filter(None, words))

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        assert outputs.uncond is not None
        scale = self._match(moment) if self.matched else self.scale
        output = outputs.uncond + scale * outputs.difference
        if self.renoise_scale == self.scale:
            return Guided(output)
        return Guided(output, outputs.uncond + self.renoise_scale * outputs.difference)

    def _match(self, moment: Moment) -> Tensor:
        """λ(p), spread over x; of a second evaluation, where the step goes, that of the first."""
        if moment.here is moment.there:
            kept: Tensor = moment.state["scale"]
            return kept
        line_t, line_s = moment.line
        own = 1 - compute_rest(moment.here.level, moment.there.level, moment.eta)
        line = 1 - compute_rest(line_t.level, line_s.level, moment.eta)
        share = (own / line).where(line > 0, 1.0)
        scale = (self.renoise_scale + (self.scale - self.renoise_scale) * share).float()
        moment.state["scale"] = scale
        return scale


def compute_rest(level_t: Level, level_s: Level, eta: float) -> Tensor:
    """q: what a step leaves of the noise there is, by the measure of x₀; float64.

    √(e⁻²ʰ (1 - η² (1 - e⁻²ʰ))) with e⁻ʰ = σₛ αₜ/(αₛ σₜ), since v = η² σₛ² (1 - e⁻²ʰ). 1 where the
    level stays, 0 to the clean end and from pure noise.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.alpha.double(), level.sigma.double()) for level in (level_t, level_s)
    )
    squared = ((sigma_s * alpha_t) / (alpha_s * sigma_t)) ** 2
    stays = (alpha_s == alpha_t) & (sigma_s == sigma_t)
    return (squared * (1 - eta**2 * (1 - squared))).clamp(min=0).sqrt().where(~stays, 1.0)
