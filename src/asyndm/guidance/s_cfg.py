"""Guidance as strong in every region of a picture as in its foreground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.choices import list_changes
from asyndm.errors import UserError, check_flag, check_number
from asyndm.guidance.base import UNETS, Guidance, Guided, Outputs, Probe

if TYPE_CHECKING:
    from asyndm.guidance.moment import Moment
    from asyndm.guidance.prompts import PromptTokens
    from asyndm.protocols import Network

SPACES = ("x0", "epsilon")


@dataclass(frozen=True)
class SCFG(Guidance):
    """e_u + g rate(p) Δ, Δ = e_c - e_u (semantic-aware guidance, S-CFG, arXiv 2404.05384).

    rate(p) = N_F/N_k: the mean of n(p), the norm of Δ over channels, in the foreground, by that in
    the pixel's own region k. It is clamped to [min_rate, max_rate], then to max_scale/g, and
    smoothed by a Gaussian of 3x3 pixels.

    The regions are those of this evaluation: a place belongs to the text token whose map Ā C is
    largest among all of them, start and padding included; it is foreground if without the prompt
    all tokens together outweigh the first. C is the attention to text and Ā that to the picture, of
    the layers at 1/4 and 1/8 of the latents' size (else of the coarsest there are).

    Where pixels stand at different noise levels, Δ is smaller where there is more noise, and a
    region that is merely behind would get another rate: so the norm is that of the difference of
    x₀, (σ/α) |Δ|. At one level for all both are the same.

    The published code squares A each time where the paper's equation takes the next power, and
    takes every map to be square. Its Gaussian of σ = 0.5 is one of 1/√2, as here. It clamps a
    picture without foreground to min_rate, which here is guided as usual. Its example has the
    method switched off.

    Args:
        space: in which norms are taken, "x0" or, as published, the network's output, "epsilon".
        min_rate, max_rate: of the rate; 1 and 1 is classifier-free guidance where g <= max_scale.
        max_scale: of g rate(p).
        exact_powers: whether Ā = (A + A² + A³ + A⁴)/4, the paper's equation; False: (A + 3 A²)/4,
            with which its numbers were made.

    Raises:
        UserError: another space, or bounds that are no numbers of at least 0 or crossed.
    """

    space: str = "x0"
    min_rate: float = 0.8
    max_rate: float = 3.0
    max_scale: float = 15.0
    exact_powers: bool = False

    name = "s_cfg"
    networks = UNETS
    needs_uncond = True

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise UserError(
                f"guidance.space must be one of {', '.join(SPACES)}, got {self.space!r}"
            )
        check_number(self.min_rate, "guidance.min_rate", least=0)
        check_number(self.max_rate, "guidance.max_rate", least=self.min_rate)
        check_number(self.max_scale, "guidance.max_scale", least=0)
        check_flag(self.exact_powers, "guidance.exact_powers")

    @property
    def details(self) -> str:
        return list_changes(self, "space", "min_rate", "max_rate", "max_scale", "exact_powers")

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe:
        from asyndm.guidance.self_attention import RegionReader, find_blocks

        return RegionReader(find_blocks(network), self.exact_powers)

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        from asyndm.guidance.self_attention import RegionReader, compute_rate, smooth

        reader, g = moment.probe, moment.guidance_scale
        assert isinstance(reader, RegionReader)
        difference = outputs.difference
        seen = moment.scale_to_x0(difference) if self.space == "x0" else difference
        rate = compute_rate(
            seen.norm(dim=1, keepdim=True),
            reader.find_regions(),
            reader.find_foreground(),
            reader.tokens,
            reader.factor,
        )
        rate = rate.clamp(self.min_rate, self.max_rate).clamp(max=self.max_scale / g)
        # Of rate - 1, so that a rate of 1 stays 1 to the last bit.
        return Guided(outputs.guided + g * smooth(rate - 1) * difference)
