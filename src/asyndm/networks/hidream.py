"""HiDream-I1: joint attention, text read by T5 and Llama."""

from __future__ import annotations

from collections.abc import Sequence

from asyndm.attention import Reading
from asyndm.networks.base import (
    JointFamily,
    Positions,
    join_texts,
    make_position_map,
    resolve_argument,
)
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate


class HiDream(JointFamily):
    """A square of 2x2 latent pixels is a token. Joint sequences are [image; T5; Llama; Llama], the
    last of them from the layer of Llama's that belongs to the block. An image that is not square is
    filled up to the longest there can be; what it is filled up with is attended to.
    """

    networks = ("HiDreamImageTransformer2DModel",)
    pipelines = ("HiDreamImagePipeline",)
    timestep = "timesteps"
    text_first = False
    layer = "attn1"
    negates = True
    layered = ("encoder_hidden_states_llama3",)

    def padding(self, network: Network, arguments: Arguments) -> int:
        height, width = self.grid(network, arguments)
        return 0 if height == width else int(network.max_seq) - height * width

    def text_length(self, arguments: Arguments) -> int:
        t5, llama = (
            arguments[f"encoder_hidden_states_{each}"].shape[-2] for each in ("t5", "llama3")
        )
        return int(t5 + 2 * llama)

    def joint_blocks(self, network: Network) -> Sequence[Network]:
        return [each.block for each in network.double_stream_blocks]

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        limit, texts = resolve_argument(parts, arguments, "max_sequence_length"), []
        for name in ("3", "4", "4"):
            tokenizer = getattr(parts, f"tokenizer_{name}")
            text = arguments.get(f"prompt_{name}") or prompt
            length = min(limit, tokenizer.model_max_length)
            found = locate(tokenizer, text, subjects)
            texts.append((length, found, make_position_map(tokenizer, text, length)))
        return join_texts(prompt, subjects, texts)
