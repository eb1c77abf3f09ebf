"""FLUX.2 (dev, klein): packed latents, joint attention, text read by Mistral or Qwen3 in a chat
template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks.base import (
    Arguments,
    JointFamily,
    Positions,
    around,
    default_of,
    fraction,
    received,
)
from asyndm.subjects import Subject, locate, within_reach


class Flux2(JointFamily):
    """A square of 2x2 latent pixels is a token. All of the chat is attended to, and so is what it
    is filled up with, by dev at the beginning. The autoencoder whitens its latents by the
    statistics of a batch norm.
    """

    networks = ("Flux2Transformer2DModel",)
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")

    def convert(self, network: Any, timesteps: Tensor, given: Tensor) -> Tensor:
        return fraction(timesteps, given)

    def grid(self, network: Any, arguments: Arguments) -> tuple[int, int]:
        places = arguments["img_ids"].reshape(-1, 4)
        if places[:, 0].any():
            raise UserError(
                "pictures to go by (image=...) are not served with FLUX.2: give a prompt alone"
            )
        height, width = (places[:, 1:3].amax(0) + 1).tolist()
        return height, width

    def positions(
        self,
        parts: Any,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        if arguments.get("caption_upsample_temperature"):
            raise UserError(
                "caption_upsample_temperature has the prompt rewritten: subjects could not be "
                "found in it"
            )
        before, after = around(lambda text: _chat(parts, text), prompt)
        tokenizer = getattr(
            parts.tokenizer, "tokenizer", parts.tokenizer
        )  # dev's is in a processor
        special = not _is_dev(parts)  # whose chat begins with the first token of all
        limit = default_of(parts, arguments, "max_sequence_length")
        reached = received(tokenizer, before + prompt + after, limit, special=special)
        found = locate(tokenizer, prompt, subjects, before=before, after=after, special=special)
        return within_reach(prompt, subjects, found, reached)

    def picture_latents(self, pipe: Any, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        norm = pipe.vae.bn
        std = (norm.running_var + pipe.vae.config.batch_norm_eps).sqrt().to(latents)
        squares = (latents * std + norm.running_mean.to(latents)).mT.unflatten(2, grid)
        picture: Tensor = pipe._unpatchify_latents(squares)
        return picture


def _is_dev(parts: Any) -> bool:
    return hasattr(parts, "system_message")


def _chat(parts: Any, text: str) -> str:
    if _is_dev(parts):
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        (said,) = format_input([text])
        return str(
            parts.tokenizer.apply_chat_template(said, add_generation_prompt=False, tokenize=False)
        )
    said = [{"role": "user", "content": text}]
    return str(
        parts.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
    )
