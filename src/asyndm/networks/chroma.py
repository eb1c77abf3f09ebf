"""Chroma: FLUX.1 without guidance embedding, its modulation made by a network of its own; text read
by T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from asyndm.attention import Reading
from asyndm.networks.base import Positions, resolve_argument
from asyndm.networks.flux import Flux
from asyndm.protocols import Arguments, Pipeline
from asyndm.subjects import Subject, locate


class Chroma(Flux):
    """The modulation of all blocks is made of each level anew, 344 vectors by five layers 5120
    wide: 100 levels are about a fifth more arithmetic than the stock network at 1024 pixels, where
    FLUX.1's cost next to nothing. In diffusers 0.42 the inpainting pipeline raises as it is.
    """

    compiles = False
    networks: ClassVar[tuple[str, ...]] = ("ChromaTransformer2DModel",)
    helpers: ClassVar[tuple[str, ...]] = ()
    pipelines: ClassVar[tuple[str, ...]] = ("ChromaPipeline", "ChromaImg2ImgPipeline")

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        return locate(parts.tokenizer, prompt, subjects, limit=limit)
