"""FLUX.2 (dev, klein): packed latents, joint attention, text read by Mistral or Qwen3 in a chat
template."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks.base import (
    JointFamily,
    Positions,
    make_position_map,
    resolve_argument,
    split_template,
    to_fraction,
)
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, keep_reachable, locate


class Flux2(JointFamily):
    """A square of 2x2 latent pixels is a token. All of the chat is attended to, and so is what it
    is filled up with, by dev at the beginning. The autoencoder whitens its latents by the
    statistics of a batch norm.
    """

    networks = ("Flux2Transformer2DModel",)
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return to_fraction(timesteps, given)

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        places = arguments["img_ids"].reshape(-1, 4)
        if places[:, 0].any():
            raise UserError(
                "pictures to go by (image=...) are not served with FLUX.2: give a prompt alone"
            )
        height, width = (places[:, 1:3].amax(0) + 1).tolist()
        return height, width

    def positions(
        self,
        parts: Pipeline,
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
        before, after = split_template(lambda text: _format_chat(parts, text), prompt)
        # Dev's is in a processor, and its chat begins with the first token of all.
        tokenizer = getattr(parts.tokenizer, "tokenizer", parts.tokenizer)
        special = not _is_dev(parts)
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        map_position = make_position_map(tokenizer, before + prompt + after, limit, special=special)
        found = locate(tokenizer, prompt, subjects, before=before, after=after, special=special)
        return keep_reachable(prompt, subjects, found, map_position)

    def picture_latents(self, pipe: Pipeline, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        norm = pipe.vae.bn
        std = (norm.running_var + pipe.vae.config.batch_norm_eps).sqrt().to(latents)
        squares = (latents * std + norm.running_mean.to(latents)).mT.unflatten(2, grid)
        picture: Tensor = pipe._unpatchify_latents(squares)
        return picture


def _is_dev(parts: Pipeline) -> bool:
    return hasattr(parts, "system_message")


def _format_chat(parts: Pipeline, text: str) -> str:
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
