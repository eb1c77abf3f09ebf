"""CogView4: joint attention, text read by GLM."""

from __future__ import annotations

from collections.abc import Sequence

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks.base import JointFamily, Positions, resolve_argument
from asyndm.protocols import Arguments, Pipeline
from asyndm.subjects import Subject, keep_reachable, locate


class CogView4(JointFamily):
    """A square of 2x2 latent pixels is a token. Text is filled up at its beginning, to that of the
    longest prompt of the batch and to a multiple of 16: words are counted from its end. What it is
    filled up with is attended to, so that the stock pipeline's picture, too, is another one beside
    a longer prompt.
    """

    networks = ("CogView4Transformer2DModel",)
    pipelines = ("CogView4Pipeline",)
    layer = "attn1"

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        if parts.tokenizer.padding_side != "left":
            raise UserError(
                "CogView4's tokenizer must pad on the left (padding_side), as its checkpoints' does"
            )
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        length = len(parts.tokenizer(prompt, truncation=True, max_length=limit)["input_ids"])

        def map_position(position: int) -> int | None:
            return position - length if position < length else None

        return keep_reachable(
            prompt, subjects, locate(parts.tokenizer, prompt, subjects), map_position, limit=limit
        )
