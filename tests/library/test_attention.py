from __future__ import annotations

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor

from asyndm.attention import CrossAttentionMaps, cross_attention_layers
from asyndm.errors import UserError
from tests.conftest import make_unet
from tests.library.traces import traces

TOKENS = [[[2], [4, 5, 6]], [[1]]]


def inputs(height: int = 16, width: int = 16, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((batch, 4, height, width), generator=generator)
    return x, 3 * torch.randn((batch, 9, 16), generator=generator)


def textbook(unet: UNet2DConditionModel, x: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps from the explicit attention probabilities of diffusers' unfused processor."""
    probabilities: list[Tensor] = []
    layers = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    for layer in layers:
        original = layer.get_attention_scores

        def record(query: Tensor, key: Tensor, mask: Tensor | None = None, original=original) -> Tensor:  # type: ignore[no-untyped-def]
            shares = original(query, key, mask)
            if shares.shape[1] == math.prod(size):
                probabilities.append(shares.view(len(x), -1, *shares.shape[1:])[-len(TOKENS) :].mean(1))
            return shares

        layer.get_attention_scores = record  # type: ignore[method-assign]
    unet.set_attn_processor(AttnProcessor())
    unet(x, 10, text)
    mean = torch.stack(probabilities).mean(0)
    maps = torch.zeros(len(TOKENS), 2, *size)
    for image, subjects in enumerate(TOKENS):
        for subject, positions in enumerate(subjects):
            maps[image, subject] = mean[image][:, positions].mean(-1).view(size)
    return maps


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (32, 12)])
@torch.no_grad()
def test_maps_are_the_probabilities_of_the_unfused_layers(factor: int, size: tuple[int, int]) -> None:
    x, text = inputs(*size)
    unet = make_unet()
    with CrossAttentionMaps(unet, TOKENS, factor) as attention:
        unet(x, 10, text)
        maps = attention.maps()
    expected = textbook(unet, x, text, (size[0] // factor, size[1] // factor))
    assert maps.shape == expected.shape
    assert torch.allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert (maps[1, 1] == 0).all() and maps[0].std() > 1e-4


@torch.no_grad()
def test_the_output_and_the_network_are_untouched(unet: UNet2DConditionModel) -> None:
    x, text = inputs()
    before, expected = traces(unet), unet(x, 10, text).sample
    with pytest.raises(RuntimeError, match="on purpose"), CrossAttentionMaps(unet, TOKENS) as attention:
        assert torch.equal(unet(x, 10, text).sample, expected)
        assert attention.factor == 4
        raise RuntimeError("on purpose")
    assert traces(unet) == before


@torch.no_grad()
def test_fused_projections_and_a_whole_conditional_batch(unet: UNet2DConditionModel) -> None:
    x, text = inputs()
    with CrossAttentionMaps(unet, TOKENS) as attention:
        unet(x, 10, text)
        expected = attention.maps()
    with CrossAttentionMaps(unet, TOKENS, conditional_half=False) as attention:
        unet(x[2:], 10, text[2:])
        assert torch.allclose(attention.maps(), expected, rtol=1e-5, atol=1e-7)
    unet.fuse_qkv_projections()
    with CrossAttentionMaps(unet, TOKENS) as attention:
        unet(x, 10, text)
        assert torch.allclose(attention.maps(), expected, rtol=1e-5, atol=1e-7)


def test_maps_are_differentiable(unet: UNet2DConditionModel) -> None:
    x, text = inputs()
    with CrossAttentionMaps(unet, TOKENS, 2) as attention:
        unet(x, 10, text)
        attention.maps()[0, 0, 0].sum().backward()
    query = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q.weight
    assert query.grad is not None and query.grad.abs().max() > 0


def test_every_layer_is_found_at_the_size_it_works_at(unet: UNet2DConditionModel) -> None:
    found = {factor: len(layers) for factor, layers in cross_attention_layers(unet).items()}
    assert found == {2: 3, 4: 4}
    assert CrossAttentionMaps(make_unet(block_out_channels=(8, 8), **TWO_BLOCKS), TOKENS).factor == 1


TWO_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def test_wrong_factors_networks_batches_and_tokens_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="attention_factor=8: .* only at 2, 4 "):
        CrossAttentionMaps(unet, TOKENS, 8)
    plain = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
    with pytest.raises(UserError, match="no cross-attention"):
        CrossAttentionMaps(make_unet(mid_block_type=None, **plain), TOKENS)
    x, text = inputs(batch=3)
    with CrossAttentionMaps(unet, TOKENS) as attention:
        with pytest.raises(UserError, match="evaluate the network"):
            attention.maps()
        with pytest.raises(UserError, match="the network's batch is 3"):
            unet(x, 10, text)
    with CrossAttentionMaps(unet, [[[9]]]), pytest.raises(UserError, match="the text has 9 tokens"):
        unet(x[:2], 10, text[:2])
