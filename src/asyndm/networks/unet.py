"""UNets with cross-attention: Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from asyndm.attention import PREFERRED_FACTOR, AttentionMaps, ProjectedMaps, Reading, Tokens
from asyndm.errors import UserError
from asyndm.networks.base import Family, Positions
from asyndm.protocols import Arguments, Network, Pipeline
from asyndm.subjects import Subject, locate

_SD = ("", "Img2Img", "Inpaint", "PAG", "PAGImg2Img", "PAGInpaint")
_CONTROL = ("ControlNet", "ControlNetImg2Img", "ControlNetInpaint", "ControlNetPAG")


class UNet(Family):
    """A latent pixel is a token; attention is read at a quarter of the latents' resolution.

    A residual block adds a projection of the time embedding to every pixel: a coarser block takes
    the row of the top left latent pixel of each cell. Source: AsynDM (arXiv 2510.04504), section 4.
    """

    networks = ("UNet2DConditionModel",)
    helpers = ("ControlNetModel",)
    pipelines = (
        *(f"StableDiffusion{kind}Pipeline" for kind in (*_SD, *_CONTROL, "ControlNetPAGInpaint")),
        *(f"StableDiffusionXL{kind}Pipeline" for kind in (*_SD, *_CONTROL, "ControlNetPAGImg2Img")),
    )
    states = "sample"
    picture = True
    compiles = True
    blind_blocks = True

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        height, width = arguments["sample"].shape[-2:]
        return height, width

    def read_states(self, network: Network, arguments: Arguments) -> Tensor:
        """Inpainting networks have more channels, behind those of x."""
        states: Tensor = arguments["sample"]
        return states[:, : network.config.out_channels]

    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        """CLIP's; a second encoder (XL) has the same beside them in the channels.

        A textual inversion of n vectors is n words there ("<toy> <toy>_1"), in the prompt as in a
        subject.
        """
        tokenizer = parts.tokenizer or parts.tokenizer_2
        added = tokenizer.added_tokens_encoder
        several = any(f"{token}_1" in added for token in added) and hasattr(
            parts, "maybe_convert_prompt"
        )

        def spell(text: str) -> str:
            return str(parts.maybe_convert_prompt(text, tokenizer)) if several else text

        said = [replace(subject, text=spell(subject.text)) for subject in subjects]
        return locate(tokenizer, spell(prompt), said, limit=tokenizer.model_max_length)

    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        factor, layers = find_layers(network, reading.factor)
        return ProjectedMaps(layers, tokens, factor)

    def map_size(self, reader: AttentionMaps, grid: tuple[int, int]) -> tuple[int, int]:
        assert isinstance(reader, ProjectedMaps)
        return -(-grid[0] // reader.factor), -(-grid[1] // reader.factor)


def find_layers(unet: Network, factor: int | None) -> tuple[int, list[Attention]]:
    """The cross-attention layers at one resolution, in network order, and its factor: latent size
    over map size.

    Raises:
        UserError: no cross-attention at this factor, or none at all.
    """
    layers = find_cross_attention(unet)
    if not layers:
        raise UserError(
            "the network has no cross-attention: masks from attention need one (use another mask)"
        )
    if factor is None:
        factor = PREFERRED_FACTOR if PREFERRED_FACTOR in layers else min(layers)
    if factor not in layers:
        raise UserError(
            f"attention_factor={factor}: the network has cross-attention only at "
            f"{', '.join(map(str, sorted(layers)))} (latent size over map size)"
        )
    return factor, layers[factor]


def find_cross_attention(unet: Network) -> dict[int, list[Attention]]:
    """All cross-attention layers of a network by factor: latent size over the size the layer works
    at."""
    layers: dict[int, list[Attention]] = {}

    def collect(block: nn.Module, factor: int) -> None:
        found = [m for m in block.modules() if isinstance(m, Attention) and m.is_cross_attention]
        if found:
            layers.setdefault(factor, []).extend(found)

    factor = 1
    for block in unet.down_blocks:
        collect(block, factor)
        factor *= 2 if getattr(block, "downsamplers", None) else 1
    if unet.mid_block is not None:
        collect(unet.mid_block, factor)
    for block in unet.up_blocks:
        collect(block, factor)
        factor //= 2 if getattr(block, "upsamplers", None) else 1
    return layers
