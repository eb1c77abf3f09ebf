"""Stable Diffusion 3 and 3.5: joint attention, text read by CLIP and T5 side by side."""

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
from asyndm.protocols import Arguments, Pipeline
from asyndm.subjects import Subject, locate


class SD3(JointFamily):
    """A square of 2x2 latent pixels is a token; the text sequence is [CLIP; T5]."""

    networks = ("SD3Transformer2DModel",)
    helpers = ("SD3ControlNetModel",)
    pipelines = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3PAGPipeline",
    )
    compiles = True
    text_first = False  # in the sequence that is attended to

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        clip_length = parts.tokenizer.model_max_length
        t5_length = resolve_argument(parts, arguments, "max_sequence_length")
        # A pipeline without T5 has zeros in its place.
        absent = parts.tokenizer_3 is None or (
            parts.text_encoder_3 is None and parts.transformer is not None
        )
        nowhere: Positions = [[] for _ in subjects]
        clip = nowhere if reading.text == "t5" else locate(parts.tokenizer, prompt, subjects)
        texts = [(clip_length, clip, make_position_map(parts.tokenizer, prompt, clip_length))]
        if not absent and reading.text != "clip":
            text = arguments.get("prompt_3") or prompt
            t5 = locate(parts.tokenizer_3, text, subjects)
            texts.append((t5_length, t5, make_position_map(parts.tokenizer_3, text, t5_length)))
        return join_texts(prompt, subjects, texts)
