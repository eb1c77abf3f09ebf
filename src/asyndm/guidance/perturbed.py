"""Guidances away from what a perturbed network says. No torch: they are read where runs are
planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError, check_fraction, is_number, is_whole
from asyndm.guidance.base import UNETS, Guidance, Guided, Outputs, Probe

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.guidance.moment import Moment
    from asyndm.guidance.prompts import PromptTokens
    from asyndm.protocols import Network


@dataclass(frozen=True)
class Perturbed(Guidance):
    """e = e_u + g (e_c - e_u) + s (e_c - ẽ_c); ẽ_c is a third row of each picture, with the prompt,
    for which the network is perturbed. Without a negative prompt e = e_c + s (e_c - ẽ_c), of two
    rows.

    The formula is the same for every pixel, whatever its level. What is perturbed mixes pixels, as
    attention does, and so those of different levels.

    Args:
        scale: s; 0 is classifier-free guidance, to the bit and at its cost.
    """

    scale: float = 3.0

    def __post_init__(self) -> None:
        check_finite(self.scale, "guidance.scale")

    @property
    def details(self) -> str:
        return f"{self.scale:g}"

    def perturbs(self, step: int, steps: int) -> bool:
        return self.scale != 0

    def combine(self, outputs: Outputs, moment: Moment) -> Guided:
        if outputs.perturbed is None:
            return Guided(outputs.guided)
        away = outputs.cond - outputs.perturbed
        return Guided(outputs.guided + self.find_scale(moment) * away)

    def find_scale(self, moment: Moment) -> float | Tensor:
        """s in this step, or a map of it."""
        return self.scale


@dataclass(frozen=True)
class PerturbedAttention(Perturbed):
    """PAG (arXiv 2403.17377): in the perturbed row image tokens attend to themselves alone,
    so that self-attention gives back its values. In joint attention they attend to the text as
    well, and the text to all.

    Args:
        adaptive_scale: s_a; at the timestep t of each pixel, in 0 ... 1000, the scale is
            max(0, s - s_a (1000 - t)).
        layers: where; of a UNet "mid", "down.1", or any part between dots of a layer's name
            ("up.0.attentions.1"); of a transformer numbers of its blocks, from 0. None: "mid",
            or block 13.

    Raises:
        UserError: of the settings; when the pipeline is called, if the network has no such layer.
    """

    adaptive_scale: float = 0.0
    layers: Sequence[str | int] | None = None

    name = "pag"
    networks = (*UNETS, "SD3")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self.adaptive_scale, "guidance.adaptive_scale")
        if self.adaptive_scale < 0:
            raise UserError(
                f"guidance.adaptive_scale must be 0 or more, got {self.adaptive_scale!r}"
            )
        object.__setattr__(self, "layers", check_layers(self.layers))

    @property
    def details(self) -> str:
        adaptive = f"adaptive {self.adaptive_scale:g}" if self.adaptive_scale else ""
        return " ".join(filter(None, [super().details, adaptive, name_layers(self.layers)]))

    def find_scale(self, moment: Moment) -> float | Tensor:
        if self.adaptive_scale == 0:
            return self.scale
        left = 1000 - moment.timesteps
        return (self.scale - self.adaptive_scale * left).clamp(min=0).float()

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        from asyndm.guidance import perturbations

        if self.scale == 0:
            return None
        joint = perturbations.is_transformer(network)
        usual: tuple[str | int, ...] = (13,) if joint else ("mid",)
        layers = perturbations.find_attention(network, self.layers or usual)
        kind = perturbations.IdentityJointAttention if joint else perturbations.IdentityAttention
        return kind(self.name, layers)


@dataclass(frozen=True)
class SmoothedEnergy(Perturbed):
    """SEG (arXiv 2408.00760): in the perturbed row the queries of self-attention are blurred over
    the picture, which flattens the energy whose gradient attention is.

    Args:
        sigma: σ of the Gaussian, in tokens of the layer, whose picture is reflected at its edges.
            The kernel has ⌈6σ⌉ taps, one more if that is even, but as published at the most the
            largest odd number within the picture's side: of an 8x8 picture every σ from 4 on is
            nearly the same 7x7 box. Above 9999, so if infinite, all queries are their mean.
        layers: where, as of `PerturbedAttention`. None: "mid".

    Raises:
        UserError: of the settings; when the pipeline is called, if the network has no such layer.
    """

    sigma: float = math.inf
    layers: Sequence[str | int] | None = None

    name = "seg"
    networks = UNETS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.sigma) or not self.sigma > 0:
            raise UserError(
                f"guidance.sigma must be a number above 0, or infinite (.inf), got {self.sigma!r}"
            )
        object.__setattr__(self, "layers", check_layers(self.layers))

    @property
    def details(self) -> str:
        blur = "" if math.isinf(self.sigma) else f"sigma {self.sigma:g}"
        return " ".join(filter(None, [super().details, blur, name_layers(self.layers)]))

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        from asyndm.guidance import perturbations

        if self.scale == 0:
            return None
        layers = perturbations.find_attention(network, self.layers or ("mid",))
        return perturbations.BlurredQueries(self.name, layers, self.sigma)


@dataclass(frozen=True)
class SkipLayers(Perturbed):
    """SLG of Stability AI for Stable Diffusion 3.5: for the perturbed row blocks of the transformer
    are left out, in some of the first steps.

    Args:
        layers: numbers of the blocks, from 0; in FLUX those of a single stream count on from the
            others.
        start, stop: in step i = 1 ... N where start < (i - 1) / N < stop, both strictly, as
            published: a start of 0 leaves out the first step.

    Raises:
        UserError: of the settings; when the pipeline is called, if the network has no such block.
    """

    scale: float = 2.8
    layers: Sequence[int] = (7, 8, 9)
    start: float = 0.01
    stop: float = 0.2

    name = "slg"
    networks = ("SD3", "Flux")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.start, self.stop)
        layers = check_layers(self.layers)
        if layers is None or not all(map(is_whole, layers)):
            raise UserError(
                f"guidance.layers must be numbers of blocks such as [7, 8, 9], got {self.layers!r}"
            )
        object.__setattr__(self, "layers", layers)

    @property
    def details(self) -> str:
        usual = SkipLayers()
        layers = "" if self.layers == usual.layers else name_layers(self.layers)
        own = (self.start, self.stop)
        window = "" if own == (usual.start, usual.stop) else f"{self.start:g}-{self.stop:g}"
        return " ".join(filter(None, [super().details, layers, window]))

    def perturbs(self, step: int, steps: int) -> bool:
        return self.scale != 0 and self.start < (step - 1) / steps < self.stop

    def find_idle(self, steps: int) -> str:
        if self.scale == 0 or any(self.perturbs(i, steps) for i in range(1, steps + 1)):
            return ""
        own = f"start={self.start:g} and stop={self.stop:g}"
        return f"does nothing, as none of {steps} steps lies between {own}"

    def make_probe(self, network: Network, prompts: Sequence[PromptTokens]) -> Probe | None:
        from asyndm.guidance import perturbations

        if self.scale == 0:
            return None
        return perturbations.SkippedBlocks(
            self.name, perturbations.find_blocks(network, self.layers)
        )


def check_finite(value: object, setting: str) -> None:
    """Refuse what is not a finite number."""
    if not is_number(value) or not math.isfinite(value):
        raise UserError(f"{setting} must be a finite number, got {value!r}")


def check_window(start: object, stop: object) -> None:
    """Refuse what is not a part of the steps."""
    check_fraction(start, "guidance.start")
    check_fraction(stop, "guidance.stop")
    if is_number(start) and is_number(stop) and start > stop:
        raise UserError(f"guidance.start={start:g} must not be above guidance.stop={stop:g}")


def check_layers(layers: Any) -> tuple[str | int, ...] | None:
    """Layers as a tuple, so that the guidance is a value; None: the usual ones.

    Raises:
        UserError: they are not names and numbers.
    """
    if layers is None:
        return None
    listed = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not listed or not all(is_whole(layer) or _is_name(layer) for layer in layers):
        raise UserError(
            'guidance.layers must be a list of names and numbers of layers such as ["mid"] or '
            f"[13], or null, got {layers!r}"
        )
    return tuple(layers)


def _is_name(layer: object) -> bool:
    return isinstance(layer, str) and layer.strip(". ") == layer != ""


def name_layers(layers: Sequence[str | int] | None) -> str:
    """As a label has them: "mid,up.0"."""
    return ",".join(map(str, layers or ()))
