"""FLUX.1 (dev, schnell): packed latents, joint attention, text read by T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import (
    JointFamily,
    Positions,
    resolve_argument,
    to_fraction,
    unpack,
)
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate


class Flux(JointFamily):
    """A square of 2x2 latent pixels is a token; the pooled CLIP text says nothing of places and is
    not read."""

    networks: ClassVar[tuple[str, ...]] = ("FluxTransformer2DModel",)
    helpers: ClassVar[tuple[str, ...]] = ("FluxControlNetModel",)
    pipelines: ClassVar[tuple[str, ...]] = (
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlNetPipeline",
    )

    compiles = True

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return to_fraction(timesteps, given)

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        height, width = (arguments["img_ids"].view(-1, 3)[:, 1:].amax(0) + 1).int().tolist()
        return height, width

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        return locate(parts.tokenizer_2, arguments.get("prompt_2") or prompt, subjects, limit=limit)

    def picture_latents(self, pipe: Pipeline, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().picture_latents(pipe, unpack(latents, grid), grid)
