"""Qwen-Image: packed latents, joint attention, text read by a vision-language model in a chat
template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import Arguments, JointFamily, Positions, default_of, fraction, unpacked
from asyndm.subjects import Subject, locate, within_reach


class QwenImage(JointFamily):
    """A square of 2x2 latent pixels is a token; the template's first tokens are cut off the
    text."""

    networks = ("QwenImageTransformer2DModel",)
    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")

    def convert(self, network: Any, timesteps: Tensor, given: Tensor) -> Tensor:
        return fraction(timesteps, given)

    def grid(self, network: Any, arguments: Arguments) -> tuple[int, int]:
        _, height, width = arguments["img_shapes"][0][0]
        return height, width

    def positions(
        self,
        parts: Any,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        before, _, after = parts.prompt_template_encode.partition("{}")
        dropped, limit = (
            parts.prompt_template_encode_start_idx,
            default_of(parts, arguments, "max_sequence_length"),
        )

        def reached(position: int) -> int | None:
            return position - dropped if 0 <= position - dropped < limit else None

        found = locate(parts.tokenizer, prompt, subjects, before=before, after=after)
        return within_reach(prompt, subjects, found, reached)

    def picture_latents(self, pipe: Any, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        config = pipe.vae.config
        mean, std = (
            torch.tensor(each).view(1, -1, 1, 1).to(latents)
            for each in (config.latents_mean, config.latents_std)
        )
        frames: Tensor = (unpacked(latents, grid) * std + mean)[:, :, None]
        return frames
