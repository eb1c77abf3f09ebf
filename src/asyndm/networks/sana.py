"""Sana: linear attention among pixels, cross-attention to Gemma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Arguments, Family, Positions, cleaned, default_of
from asyndm.subjects import Subject, locate, within_reach


class Sana(Family):
    """A latent pixel is a token. Gemma reads an instruction before the prompt; the network is shown
    the first token of all and the last 299."""

    networks = ("SanaTransformer2DModel",)
    pipelines = ("SanaPipeline", "SanaPAGPipeline")

    def convert(self, network: Any, timesteps: Tensor, given: Tensor) -> Tensor:
        scale: float = network.config.timestep_scale
        return super().convert(network, timesteps, given) * scale

    def positions(
        self,
        parts: Any,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        length = default_of(parts, arguments, "max_sequence_length") or 300
        instruction = arguments.get(
            "complex_human_instruction", default_of(parts, arguments, "complex_human_instruction")
        )
        before = "\n".join(instruction or ())
        dropped = len(parts.tokenizer.encode(before)) - 2 if before else 0

        def reached(position: int) -> int | None:
            return position - dropped if 0 < position - dropped < length else None

        text = cleaned(parts, prompt, arguments)
        return within_reach(
            prompt, subjects, locate(parts.tokenizer, text, subjects, before=before), reached
        )

    def attention(self, network: Any, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.transformer_blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
