from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyndm.conditioning import PerPixelTime
from asyndm.errors import UserError
from tests.conftest import make_unet
from tests.library.traces import traces

SHARED = make_unet()
ROUNDING = 5e-6
"""Largest difference over the largest output: float32, a row embedded among a thousand or alone (1e-6 measured)."""


def assert_same(ours: Tensor, expected: Tensor) -> None:
    assert (ours - expected).abs().max() <= ROUNDING * expected.abs().max()


def inputs(batch: int, height: int = 16, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((batch, 4, height, width), generator=generator)
    return x, torch.randn((batch, 9, 16), generator=generator)


def slow(unet: UNet2DConditionModel, x: Tensor, text: Tensor, timesteps: Tensor) -> Tensor:
    """The same network, every pixel's embedding computed for itself inside blocks written out again."""

    def block_forward(block: ResnetBlock2D):  # type: ignore[no-untyped-def]
        def forward(hidden: Tensor, temb: Tensor) -> Tensor:
            h = block.conv1(block.nonlinearity(block.norm1(hidden)))
            cell = x.shape[-2] // h.shape[-2], x.shape[-1] // h.shape[-1]
            added = torch.empty_like(h)
            for b in range(h.shape[0]):
                for i in range(h.shape[-2]):
                    for j in range(h.shape[-1]):
                        t = timesteps[b, i * cell[0], j * cell[1]]
                        embedding = unet.time_embedding(unet.time_proj(t[None]))
                        added[b, :, i, j] = block.time_emb_proj(block.nonlinearity(embedding))[0]
            h = block.conv2(block.nonlinearity(block.norm2(h + added)))
            skip = hidden if block.conv_shortcut is None else block.conv_shortcut(hidden)
            return (skip + h) / block.output_scale_factor

        return forward

    blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    for block in blocks:
        block.forward = block_forward(block)  # type: ignore[method-assign]
    try:
        return unet(x, 0, text).sample
    finally:
        for block in blocks:
            del block.forward


@torch.no_grad()
def test_equal_to_a_computation_pixel_by_pixel() -> None:
    x, text = inputs(2, 8, 12)
    timesteps = torch.randint(0, 1000, (2, 8, 12), generator=torch.Generator().manual_seed(1))
    expected = slow(SHARED, x, text, timesteps)
    with PerPixelTime(SHARED) as time:
        time.set(timesteps)
        table = SHARED(x, 0, text).sample
        rows, index = timesteps.unique(return_inverse=True)
        time.set(index, rows)
        explicit = SHARED(x, 0, text).sample
    assert_same(table, expected)
    assert_same(explicit, expected)
    uniform = SHARED(x, int(timesteps[0, 0, 0]), text).sample
    assert (uniform - expected).abs().max() > 1e-3 * expected.abs().max()


@settings(max_examples=15)
@given(t=st.lists(st.integers(0, 999), min_size=1, max_size=3), copies=st.sampled_from([1, 2]))
@torch.no_grad()
def test_a_uniform_map_is_a_scalar_timestep(t: list[int], copies: int) -> None:
    x, text = inputs(len(t) * copies)
    expected = SHARED(x, torch.tensor(t * copies), text).sample
    with PerPixelTime(SHARED) as time:
        time.set(torch.tensor(t)[:, None, None].expand(-1, 16, 16))
        assert_same(SHARED(x, 0, text).sample, expected)


@torch.no_grad()
def test_nothing_is_left_behind_not_even_by_an_exception(unet: UNet2DConditionModel) -> None:
    x, text = inputs(1)
    before, expected = traces(unet), unet(x, 7, text).sample
    with pytest.raises(RuntimeError, match="on purpose"), PerPixelTime(unet) as time:
        time.set(torch.full((1, 16, 16), 900))
        assert not torch.equal(unet(x, 7, text).sample, expected)
        raise RuntimeError("on purpose")
    with pytest.raises(UserError, match="does not fit"), PerPixelTime(unet) as time:
        time.set(torch.zeros(1, 6, 6, dtype=torch.long))
        unet(x, 7, text)
    assert traces(unet) == before
    assert torch.equal(unet(x, 7, text).sample, expected)


@torch.no_grad()
def test_a_context_can_be_set_again_and_entered_again(unet: UNet2DConditionModel) -> None:
    x, text = inputs(1)
    time = PerPixelTime(unet)
    maps = [torch.full((1, 16, 16), t) for t in (3, 500)]
    expected = [unet(x, t, text).sample for t in (3, 500)]
    for _ in range(2):
        with time:
            for index, wanted in zip(maps, expected, strict=True):
                time.set(index)
                assert_same(unet(x, 0, text).sample, wanted)
            time.set(torch.zeros_like(maps[0]), torch.tensor([500]))
            assert_same(unet(x, 0, text).sample, expected[1])
            time.set(maps[0])
            assert_same(unet(x, 0, text).sample, expected[0])


def test_explicit_rows_carry_gradients_as_a_scalar_timestep_does(unet: UNet2DConditionModel) -> None:
    x, text = inputs(2)
    names = ["time_embedding.linear_1.weight", "mid_block.resnets.0.time_emb_proj.weight", "conv_in.weight"]
    parameters = [unet.get_parameter(name) for name in names]
    loss = unet(x, torch.tensor([40, 700]), text).sample.square().mean()
    expected = torch.autograd.grad(loss, parameters)
    with PerPixelTime(unet) as time:
        time.set(torch.tensor([1, 0])[:, None, None].expand(-1, 16, 16), torch.tensor([700, 40]))
        gradients = torch.autograd.grad(unet(x, 0, text).sample.square().mean(), parameters)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_unsupported_networks_and_maps_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="time_embedding_norm='scale_shift'"):
        PerPixelTime(make_unet(resnet_time_scale_shift="scale_shift"))
    with pytest.raises(UserError, match="class embeddings"):
        PerPixelTime(make_unet(num_class_embeds=3))
    with pytest.raises(UserError, match="time condition"):
        PerPixelTime(make_unet(time_cond_proj_dim=8))
    x, text = inputs(3)
    with PerPixelTime(unet) as time:
        with pytest.raises(UserError, match="call PerPixelTime.set"):
            unet(x, 0, text)
        with pytest.raises(UserError, match="map of whole numbers"):
            time.set(torch.zeros(1, 16, 16))
        time.set(torch.zeros(2, 16, 16, dtype=torch.long))
        with pytest.raises(UserError, match=r"batch \(3\) must be a multiple"):
            unet(x, 0, text)
