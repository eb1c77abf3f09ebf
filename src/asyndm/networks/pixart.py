"""PixArt-Alpha and -Sigma: cross-attention to T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Arguments, Family, Positions, cleaned, default_of
from asyndm.subjects import Subject, locate


class PixArt(Family):
    """A square of 2x2 latent pixels is a token; the prompt is lower-cased, or cleaned, before T5
    reads it."""

    networks = ("PixArtTransformer2DModel",)
    pipelines = ("PixArtSigmaPipeline", "PixArtAlphaPipeline", "PixArtSigmaPAGPipeline")

    def positions(
        self,
        parts: Any,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit = default_of(parts, arguments, "max_sequence_length")
        return locate(parts.tokenizer, cleaned(parts, prompt, arguments), subjects, limit=limit)

    def attention(self, network: Any, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.transformer_blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
