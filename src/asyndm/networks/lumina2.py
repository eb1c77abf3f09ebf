"""Lumina-Image 2.0: joint attention, text read by Gemma behind a system prompt."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import JointFamily, Positions, resolve_argument
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate


class Lumina2(JointFamily):
    """A square of 2x2 latent pixels is a token. Each joint sequence of a batch has its own text
    without padding, and the image right behind it. The network's time runs from noise, 0, to the
    picture, 1.
    """

    networks = ("Lumina2Transformer2DModel",)
    pipelines = ("Lumina2Pipeline",)
    negates = True

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return 1 - timesteps.to(given.dtype) / 1000

    def text_length(self, arguments: Arguments) -> list[int]:
        lengths: list[int] = arguments["encoder_attention_mask"].sum(1).tolist()
        return lengths

    def joint_blocks(self, network: Network) -> Sequence[Network]:
        return list(network.layers)

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        system = arguments.get("system_prompt")
        before = (parts.system_prompt if system is None else system) + " <Prompt Start> "
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        return locate(parts.tokenizer, prompt, subjects, before=before, limit=limit)
