"""Slow oracles: every token's modulation computed for itself, against the stock network told all
timesteps at once.

The blocks are written out; what time does not enter (attention, feed-forward, norms without scale)
is the network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from asyndm.levels import TimeRows, make_time_rows
from tests.conftest import make_unet
from tests.library.networks.cases import build, measure_distance
from tests.pipelines.flux import TRANSFORMER as FLUX
from tests.pipelines.pixart import TRANSFORMER as PIXART
from tests.pipelines.sd3 import TRANSFORMER as SD3
from tests.pipelines.sdxl import POOLED
from tests.pipelines.sdxl import make_unet as make_sdxl_unet
from tests.pipelines.shared import randomise

GRID = (4, 6)
TEXT = 5


def draw_normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_levels(*shape: int, most: int = 999) -> Tensor:
    """As many timesteps as there are tokens, other ones in each sample."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(1, most, shape, generator=generator).double()


def embed_each(embed: Callable[[Tensor, int], Any], timesteps: Tensor) -> Any:
    """(B, N, ...) of what is computed for one token (1, ...) after another; timesteps are (B,
    N)."""
    made = [[embed(t[None], b) for t in timesteps[b]] for b in range(len(timesteps))]
    if isinstance(made[0][0], tuple):
        parts = range(len(made[0][0]))
        return tuple(
            torch.stack([torch.cat([token[i] for token in row]) for row in made]) for i in parts
        )
    return torch.stack([torch.cat(row) for row in made])


def make_rows(timesteps: Tensor, name: str, **joint: Any) -> Tensor:
    made = make_time_rows(timesteps, lambda values: values, network=name, **joint)
    assert isinstance(made, TimeRows) and len(made) > 0.9 * timesteps.numel()
    return made


def compute_modulation(adaptive: Any, embedding: Tensor, parts: int) -> tuple[Tensor, ...]:
    projected: Tensor = adaptive.linear(F.silu(embedding))
    return projected.chunk(parts, -1)


def normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalise(x) * (1 + scale) + shift


def unpatch(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """(B, h w, size size C) -> (B, C, size h, size w)."""
    cells = x.view(len(x), *grid, size, size, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, grid[0] * size, grid[1] * size)


def sd3(
    network: Any, x: Tensor, text: Tensor, pooled: Tensor, image_t: Tensor, text_t: Tensor
) -> Tensor:
    def embed(t: Tensor, b: int) -> Any:
        return network.time_text_embed(t, pooled[b : b + 1])

    own, words = (
        embed_each(embed, image_t.flatten(1)),
        embed_each(embed, text_t[:, None].expand(-1, TEXT)),
    )
    h, c = network.pos_embed(x), network.context_embedder(text)
    for block in network.transformer_blocks:
        parts = compute_modulation(block.norm1, own, 9 if block.use_dual_attention else 6)
        if block.context_pre_only:
            scale, shift = compute_modulation(block.norm1_context, words, 2)
            c_parts: tuple[Tensor, ...] = (shift, scale)
        else:
            c_parts = compute_modulation(block.norm1_context, words, 6)
        normed = modulate(h, *parts[:2])
        image, context = block.attn(normed, encoder_hidden_states=modulate(c, *c_parts[:2]))
        second = modulate(h, *parts[6:8]) if block.use_dual_attention else None
        h = h + parts[2] * image
        if second is not None:
            h = h + parts[8] * block.attn2(second)
        h = h + parts[5] * block.ff(modulate(h, *parts[3:5]))
        if not block.context_pre_only:
            c = c + c_parts[2] * context
            c = c + c_parts[5] * block.ff_context(modulate(c, *c_parts[3:5]))
    scale, shift = compute_modulation(network.norm_out, own, 2)
    return unpatch(network.proj_out(modulate(h, shift, scale)), GRID, 2)


@torch.no_grad()
def sd3_difference(config: dict[str, Any]) -> float:
    torch.manual_seed(0)
    network = randomise(SD3Transformer2DModel(**{**SD3, "num_layers": 3, **config})).double()
    x, text, pooled = (
        draw_normal(2, 4, 8, 12),
        draw_normal(2, TEXT, 32, seed=1),
        draw_normal(2, 32, seed=2),
    )
    image_t, text_t = draw_levels(2, *GRID), torch.tensor([250.0, 777.0]).double()
    rows = make_rows(image_t, "SD3", text=text_t, text_length=TEXT, text_first=False)
    made = network(x, text, pooled, rows).sample
    return measure_distance(made, sd3(network, x, text, pooled, image_t, text_t))


def flux(network: Any, given: dict[str, Tensor], image_t: Tensor, text_t: Tensor) -> Tensor:
    guidance = given.get("guidance")

    def embed(t: Tensor, b: int) -> Any:
        more = [] if guidance is None else [guidance[b : b + 1] * 1000]
        return network.time_text_embed(t * 1000, *more, given["pooled_projections"][b : b + 1])

    own, words = (
        embed_each(embed, image_t.flatten(1)),
        embed_each(embed, text_t[:, None].expand(-1, TEXT)),
    )
    h, c = (
        network.x_embedder(given["hidden_states"]),
        network.context_embedder(given["encoder_hidden_states"]),
    )
    rotary = network.pos_embed(torch.cat([given["txt_ids"], given["img_ids"]]))
    for block in network.transformer_blocks:
        parts, c_parts = (
            compute_modulation(block.norm1, own, 6),
            compute_modulation(block.norm1_context, words, 6),
        )
        image, context = block.attn(
            modulate(h, *parts[:2]), modulate(c, *c_parts[:2]), image_rotary_emb=rotary
        )
        h, c = h + parts[2] * image, c + c_parts[2] * context
        h = h + parts[5] * block.ff(modulate(h, *parts[3:5]))
        c = c + c_parts[5] * block.ff_context(modulate(c, *c_parts[3:5]))
    joint, both = torch.cat([c, h], 1), torch.cat([words, own], 1)
    for block in network.single_transformer_blocks:
        shift, scale, gate = compute_modulation(block.norm, both, 3)
        normed = modulate(joint, shift, scale)
        mlp = F.gelu(block.proj_mlp(normed), approximate="tanh")
        joint = joint + gate * block.proj_out(
            torch.cat([block.attn(normed, image_rotary_emb=rotary), mlp], 2)
        )
    scale, shift = compute_modulation(network.norm_out, own, 2)
    output: Tensor = network.proj_out(modulate(joint[:, TEXT:], shift, scale))
    return output


@torch.no_grad()
def flux_difference(guided: bool) -> float:
    torch.manual_seed(0)
    network = randomise(FluxTransformer2DModel(**{**FLUX, "guidance_embeds": guided})).double()
    places = torch.cartesian_prod(torch.arange(GRID[0]), torch.arange(GRID[1])).double()
    given = {
        "hidden_states": draw_normal(2, GRID[0] * GRID[1], 16),
        "encoder_hidden_states": draw_normal(2, TEXT, 32, seed=1),
        "pooled_projections": draw_normal(2, 16, seed=2),
        "img_ids": F.pad(places, (1, 0)),
        "txt_ids": torch.zeros(TEXT, 3, dtype=torch.float64),
        **({"guidance": torch.tensor([3.5, 1.0]).double()} if guided else {}),
    }
    image_t, text_t = draw_levels(2, *GRID) / 1000, torch.tensor([0.25, 0.777]).double()
    rows = make_rows(image_t, "Flux", text=text_t, text_length=TEXT)
    made = network(**given, timestep=rows).sample
    return measure_distance(made, flux(network, given, image_t, text_t))


def split_table(table: Tensor, six: Tensor) -> tuple[Tensor, ...]:
    """Six parts of a table that every block adds to the one projection of time, (B, N, D) each."""
    parts: tuple[Tensor, ...] = (table + six.unflatten(-1, (len(table), -1))).unbind(2)
    return parts


def pixart(
    network: Any, x: Tensor, text: Tensor, hidden: Tensor, added: Any, timesteps: Tensor
) -> Tensor:
    def embed(t: Tensor, b: int) -> Any:
        own = {name: None if value is None else value[b : b + 1] for name, value in added.items()}
        return network.adaln_single(t, own, batch_size=1, hidden_dtype=torch.float64)

    six, embedded = embed_each(embed, timesteps.flatten(1))
    h, c = network.pos_embed(x), network.caption_projection(text)
    bias = (1 - hidden).mul(-10000.0)[:, None]
    for block in network.transformer_blocks:
        parts = split_table(block.scale_shift_table, six)
        h = h + parts[2] * block.attn1(modulate(h, *parts[:2]))
        h = h + block.attn2(h, encoder_hidden_states=c, attention_mask=bias)
        h = h + parts[5] * block.ff(modulate(h, *parts[3:5]))
    shift, scale = (network.scale_shift_table + embedded[:, :, None]).unbind(2)
    return unpatch(network.proj_out(modulate(h, shift, scale)), GRID, 2)


@torch.no_grad()
def pixart_difference(sized: bool) -> float:
    torch.manual_seed(0)
    network = randomise(
        PixArtTransformer2DModel(**{**PIXART, "use_additional_conditions": sized})
    ).double()
    x, text = draw_normal(2, 4, 8, 12), draw_normal(2, TEXT, 32, seed=1)
    hidden = torch.tensor([[1.0] * TEXT, [1.0, 1.0, 1.0, 0.0, 0.0]]).double()
    size = {
        "resolution": draw_normal(2, 2, seed=3) * 500,
        "aspect_ratio": draw_normal(2, 1, seed=4),
    }
    added = size if sized else dict.fromkeys(size)
    timesteps = draw_levels(2, *GRID)
    rows = make_rows(timesteps, "PixArt")
    made = network(x, text, rows, added_cond_kwargs=added, encoder_attention_mask=hidden).sample
    return measure_distance(made, pixart(network, x, text, hidden, added, timesteps))


def sana(
    network: Any, x: Tensor, text: Tensor, hidden: Tensor, guidance: Any, timesteps: Tensor
) -> Tensor:
    def embed(t: Tensor, b: int) -> Any:
        if guidance is not None:
            return network.time_embed(t, guidance=guidance[b : b + 1], hidden_dtype=torch.float64)
        return network.time_embed(t, batch_size=1, hidden_dtype=torch.float64)

    six, embedded = embed_each(embed, timesteps.flatten(1))
    h, c = network.patch_embed(x), network.caption_norm(network.caption_projection(text))
    bias = (1 - hidden).mul(-10000.0)[:, None]
    for block in network.transformer_blocks:
        parts = split_table(block.scale_shift_table, six)
        h = h + parts[2] * block.attn1(modulate(h, *parts[:2]))
        h = h + block.attn2(h, encoder_hidden_states=c, attention_mask=bias)
        picture = modulate(h, *parts[3:5]).unflatten(1, GRID).permute(0, 3, 1, 2)
        h = h + parts[5] * block.ff(picture).flatten(2).transpose(1, 2)
    shift, scale = (network.scale_shift_table + embedded[:, :, None]).unbind(2)
    return unpatch(network.proj_out(modulate(h, shift, scale)), GRID, 1)


@torch.no_grad()
def sana_difference(guided: bool) -> float:
    config = {
        key: value for key, value in build("sana").transformer.config.items() if key[0] != "_"
    }
    torch.manual_seed(0)
    network = randomise(SanaTransformer2DModel(**{**config, "guidance_embeds": guided})).double()
    x, text = draw_normal(2, 4, *GRID), draw_normal(2, TEXT, 16, seed=1)
    hidden = torch.tensor([[1.0] * TEXT, [1.0, 1.0, 1.0, 0.0, 0.0]]).double()
    guidance = torch.tensor([0.45, 0.1]).double() if guided else None
    timesteps = draw_levels(2, *GRID)
    rows = make_rows(timesteps, "Sana")
    made = network(x, text, rows, guidance=guidance, encoder_attention_mask=hidden).sample
    return measure_distance(made, sana(network, x, text, hidden, guidance, timesteps))


def unet(network: Any, x: Tensor, text: Tensor, timesteps: Tensor, added: Any) -> Tensor:
    """Residual blocks written out again; a coarser pixel has the embedding of the top left one of
    its cell."""

    def embed(t: Tensor, b: int) -> Any:
        made = network.time_embedding(network.time_proj(t).double())
        if added is None:
            return made
        ids = network.add_time_proj(added["time_ids"][b]).double().flatten()
        return made + network.add_embedding(torch.cat([added["text_embeds"][b], ids])[None])

    embedded = embed_each(embed, timesteps.flatten(1)).unflatten(1, timesteps.shape[1:])

    def forward(block: Any, hidden: Tensor, temb: Tensor) -> Any:
        cell = x.shape[-1] // hidden.shape[-1]
        time = block.time_emb_proj(F.silu(embedded[:, ::cell, ::cell])).permute(0, 3, 1, 2)
        h = block.norm2(block.conv1(F.silu(block.norm1(hidden))) + time)
        skip = hidden if block.conv_shortcut is None else block.conv_shortcut(hidden)
        return skip + block.conv2(F.silu(h))

    blocks = [module for module in network.modules() if isinstance(module, ResnetBlock2D)]
    for block in blocks:
        block.forward = forward.__get__(block)
    try:
        output: Tensor = network(x, 0, text, added_cond_kwargs=added).sample
        return output
    finally:
        for block in blocks:
            del block.forward


@torch.no_grad()
def unet_difference(make: Any) -> float:
    torch.manual_seed(0)
    network = randomise(make()).double()
    wide = network.config.addition_embed_type is not None
    x, text = draw_normal(2, 4, 8, 12), draw_normal(2, TEXT, 32 if wide else 16, seed=1)
    sizes = torch.tensor([[128.0, 192, 0, 0, 128, 192], [64, 96, 8, 8, 64, 96]]).double()
    added = {"text_embeds": draw_normal(2, POOLED, seed=2), "time_ids": sizes} if wide else None
    timesteps = draw_levels(2, 8, 12)
    rows = make_rows(timesteps, "UNet", picture=True)
    made = network(x, rows, text, added_cond_kwargs=added).sample
    return measure_distance(made, unet(network, x, text, timesteps, added))


SD3_CONFIGS: list[dict[str, Any]] = [{}, {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}]
ORACLES: dict[str, tuple[Callable[[Any], float], Sequence[Any]]] = {
    "unet": (unet_difference, (make_unet, make_sdxl_unet)),
    "sd3": (sd3_difference, SD3_CONFIGS),
    "flux": (flux_difference, (True, False)),
    "pixart": (pixart_difference, (False, True)),
    "sana": (sana_difference, (False, True)),
}
"""A family's file -> the largest difference to the slow computation, over its largest output, and
the settings of a network that it is measured with."""
