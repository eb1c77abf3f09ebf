"""PixArt-Alpha and -Sigma: cross-attention to T5."""

from __future__ import annotations

from collections.abc import Sequence

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Family, Positions, clean_prompt, resolve_argument
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate


class PixArt(Family):
    """A square of 2x2 latent pixels is a token; the prompt is lower-cased, or cleaned, before T5
    reads it."""

    networks = ("PixArtTransformer2DModel",)
    pipelines = ("PixArtSigmaPipeline", "PixArtAlphaPipeline", "PixArtSigmaPAGPipeline")

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        text = clean_prompt(parts, prompt, arguments)
        return locate(parts.tokenizer, text, subjects, limit=limit)

    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.transformer_blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
