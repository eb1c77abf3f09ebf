"""Z-Image: joint attention, text read by Qwen3 in its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks.base import JointFamily, Positions, resolve_argument, split_template
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate

MULTIPLE = 32


class ZImage(JointFamily):
    """A square of 2x2 latent pixels is a token. Image stands before text, either filled up to a
    multiple of 32 tokens, and is a list of pictures, those of the prompt first. The network's time
    runs from noise, 0, to the picture, 1.
    """

    networks = ("ZImageTransformer2DModel",)
    pipelines = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    states = "x"
    timestep = "t"
    text_first = False
    layer = "attention"
    negates = True

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        return (1000 - timesteps.to(given.dtype)) / 1000

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        height, width = arguments["x"][0].shape[-2:]
        size = arguments.get("patch_size", 2)
        return height // size, width // size

    def padding(self, network: Network, arguments: Arguments) -> int:
        height, width = self.grid(network, arguments)
        return -height * width % MULTIPLE

    def text_length(self, arguments: Arguments) -> list[int]:
        return [len(text) + -len(text) % MULTIPLE for text in arguments["cap_feats"]]

    def read_states(self, network: Network, arguments: Arguments) -> Tensor:
        return torch.cat(arguments["x"], 1).transpose(0, 1)

    def write_states(self, arguments: Arguments, x: Tensor) -> dict[str, Any]:
        (first, *_) = arguments["x"]
        return {**arguments, "x": list(x.to(first.dtype)[:, :, None])}

    def read_output(self, output: Any, x: Tensor) -> Tensor:
        return -torch.cat(list(output), 1).transpose(0, 1)

    def read_guidance_scale(self, stated: float) -> float:
        """The pipeline's is of e_c + g (e_c - e_u)."""
        return 1 + max(0.0, stated)

    def conditional(self, copies: int, pipe: Pipeline) -> int:
        return 0

    def joint_blocks(self, network: Network) -> Sequence[Network]:
        return list(network.layers)

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        def chat(text: str) -> str:
            said = [{"role": "user", "content": text}]
            how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
            return str(parts.tokenizer.apply_chat_template(said, **how))

        before, after = split_template(chat, prompt)
        limit = resolve_argument(parts, arguments, "max_sequence_length")
        return locate(parts.tokenizer, prompt, subjects, before=before, after=after, limit=limit)
