"""Stable Diffusion 3 and 3.5: joint attention, text read by CLIP and T5 side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyndm.attention import Reading
from asyndm.networks.base import Arguments, JointFamily, Positions, default_of, patched
from asyndm.subjects import Subject, locate, within_reach


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
    text_first = False  # in the sequence that is attended to

    def grid(self, network: Any, arguments: Arguments) -> tuple[int, int]:
        return patched(network, arguments)

    def joint_blocks(self, network: Any) -> Sequence[Any]:
        return list(network.transformer_blocks)

    def positions(
        self, parts: Any, prompt: str, subjects: Sequence[Subject], reading: Reading, arguments: Arguments
    ) -> Positions:
        clip_length = parts.tokenizer.model_max_length
        t5_length = default_of(parts, arguments, "max_sequence_length")
        # A pipeline without T5 has zeros in its place.
        absent = parts.tokenizer_3 is None or (parts.text_encoder_3 is None and parts.transformer is not None)
        clip = locate(parts.tokenizer, prompt, subjects)
        t5 = [] if absent else locate(parts.tokenizer_3, arguments.get("prompt_3") or prompt, subjects)

        def reached(position: int) -> int | None:
            """Of either text its end token has the last place."""
            length, place = (clip_length, position) if position >= 0 else (t5_length, -1 - position)
            return None if place >= length - 1 else place if position >= 0 else clip_length + place

        chosen: Positions = []
        for i in range(len(subjects)):
            found = [
                [] if reading.text == "t5" else clip[i],
                [-1 - p for p in t5[i]] if t5 and reading.text != "clip" else [],
            ]
            whole = [each for each in found if each and all(reached(p) is not None for p in each)]
            chosen.append([p for each in whole or found for p in each])
        return within_reach(prompt, subjects, chosen, reached)
