"""Sana: linear attention among pixels, cross-attention to Gemma."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Family, Positions, clean_prompt, resolve_argument
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, keep_reachable, locate


class Sana(Family):
    """A latent pixel is a token. Gemma reads an instruction before the prompt; the network is shown
    the first token of all and the last 299."""

    networks = ("SanaTransformer2DModel",)
    pipelines = ("SanaPipeline", "SanaPAGPipeline")

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        scale: float = network.config.timestep_scale
        return super().convert(network, timesteps, given) * scale

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        length = resolve_argument(parts, arguments, "max_sequence_length") or 300
        name = "complex_human_instruction"
        # Given as None it is none, and not the pipeline's own.
        instruction = arguments.get(name, resolve_argument(parts, arguments, name))
        before = "\n".join(instruction or ())
        dropped = len(parts.tokenizer.encode(before)) - 2 if before else 0

        def map_position(position: int) -> int | None:
            return position - dropped if 0 < position - dropped < length else None

        text = clean_prompt(parts, prompt, arguments)
        return keep_reachable(
            prompt, subjects, locate(parts.tokenizer, text, subjects, before=before), map_position
        )

    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.transformer_blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
