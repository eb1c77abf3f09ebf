"""Hunyuan-DiT: cross-attention to BERT and T5 side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.networks.base import Arguments, Family, Positions, received, side_by_side
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
        parts: Any,
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
            found = (
                locate(tokenizer, prompt, subjects) if reading.text in ("both", name) else nowhere
            )
            texts.append((length, found, received(tokenizer, prompt, length)))
        return side_by_side(prompt, subjects, texts)

    def attention(self, network: Any, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers = [block.attn2 for block in network.blocks]
        return FusedMaps(reading.choose(layers, slice(None)), tokens)
