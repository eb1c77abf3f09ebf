"""AuraFlow: joint attention, text read by a T5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import JointFamily, Positions, resolve_argument
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate

REGISTERS = 8


class AuraFlow(JointFamily):
    """A square of 2x2 latent pixels is a token; eight register tokens, the same for all texts,
    stand before the text."""

    networks = ("AuraFlowTransformer2DModel",)
    pipelines = ("AuraFlowPipeline",)

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return (timesteps.to(torch.float32) / 1000).to(given.dtype)

    def text_length(self, arguments: Arguments) -> int:
        return REGISTERS + int(arguments["encoder_hidden_states"].shape[1])

    def joint_blocks(self, network: Network) -> Sequence[Network]:
        return list(network.joint_transformer_blocks)

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        found = locate(parts.tokenizer, prompt, subjects, limit=limit)
        return [[REGISTERS + token for token in tokens] for tokens in found]
