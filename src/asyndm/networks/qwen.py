"""Qwen-Image: packed latents, joint attention, text read by a vision-language model in a chat
template."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import (
    JointFamily,
    Positions,
    resolve_argument,
    to_fraction,
    unpack,
)
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, keep_reachable, locate


class QwenImage(JointFamily):
    """A square of 2x2 latent pixels is a token; the template's first tokens are cut off the
    text."""

    networks = ("QwenImageTransformer2DModel",)
    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")
    rescales = True

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return to_fraction(timesteps, given)

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        _, height, width = arguments["img_shapes"][0][0]
        return height, width

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        before, _, after = parts.prompt_template_encode.partition("{}")
        dropped = parts.prompt_template_encode_start_idx
        limit = resolve_argument(parts, arguments, "max_sequence_length")

        def map_position(position: int) -> int | None:
            return position - dropped if 0 <= position - dropped < limit else None

        found = locate(parts.tokenizer, prompt, subjects, before=before, after=after)
        return keep_reachable(prompt, subjects, found, map_position)

    def picture_latents(self, pipe: Pipeline, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        config = pipe.vae.config
        mean, std = (
            torch.tensor(each).view(1, -1, 1, 1).to(latents)
            for each in (config.latents_mean, config.latents_std)
        )
        frames: Tensor = (unpack(latents, grid) * std + mean)[:, :, None]
        return frames
