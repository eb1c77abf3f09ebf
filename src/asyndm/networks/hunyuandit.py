"""Hunyuan-DiT: cross-attention to BERT and T5 side by side."""

from __future__ import annotations

from collections.abc import Sequence

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Family, Positions, join_texts, make_position_map
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate

LENGTHS = (77, 256)


class HunyuanDiT(Family):
    """A square of 2x2 latent pixels is a token; the text is [BERT 77; T5 256], always, with learnt
    padding. ``attention_text="clip"`` means BERT.
    """

    networks = ("HunyuanDiT2DModel",)
    pipelines = ("HunyuanDiTPipeline",)

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        nowhere: Positions = [[] for _ in subjects]
        texts = []
        for name, tokenizer, length in zip(
            ("clip", "t5"), (parts.tokenizer, parts.tokenizer_2), LENGTHS, strict=True
        ):
            read = reading.text in ("both", name)
            found = locate(tokenizer, prompt, subjects) if read else nowhere
            texts.append((length, found, make_position_map(tokenizer, prompt, length)))
        return join_texts(prompt, subjects, texts)

    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
