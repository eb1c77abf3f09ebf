from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyndm.errors import UserError
from asyndm.levels import TimeRows, make_time_rows
from tests.conftest import make_unet
from tests.library.traces import find_traces

SHARED = make_unet()
ROUNDING = 5e-6
"""Largest difference over the largest output: float32, a row embedded among many or alone (3e-7
measured)."""
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scale and shift": ({"resnet_time_scale_shift": "scale_shift"}, {}),
    "added embeddings": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 16 + 6 * 8,
        },
        {"text": (16,), "sizes": (6,)},
    ),
    "class embeddings": ({"num_class_embeds": 3}, {"classes": 3}),
    "a time condition": (
        {"time_cond_proj_dim": 8, "time_embedding_act_fn": "silu"},
        {"condition": (8,)},
    ),
    "blocks that resize": (
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
            + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "resnet_skip_time_act": True,
            "resnet_time_scale_shift": "scale_shift",
        },
        {},
    ),
}
"""What a network's config says, and what it is told beside the timestep."""


def assert_same(ours: Tensor, expected: Tensor, rounding: float = ROUNDING) -> None:
    assert (ours - expected).abs().max() <= rounding * expected.abs().max()


def make_inputs(
    batch: int, height: int = 16, width: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((batch, 4, height, width), generator=generator)
    return x, torch.randn((batch, 9, 16), generator=generator)


def draw_map(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 1000, shape, generator=torch.Generator().manual_seed(seed)).double()


def make_rows(timesteps: Tensor, copies: int = 1) -> Tensor:
    """The timestep argument of a UNet in which every latent pixel has its own."""
    return make_time_rows(
        timesteps, lambda rows: rows.float(), network="The network", copies=copies, picture=True
    )


def make_further_arguments(batch: int, names: dict[str, Any]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    arguments: dict[str, Any] = {}
    if "text" in names:
        arguments["added_cond_kwargs"] = {
            "text_embeds": torch.randn(
                (batch, *names["text"]), generator=generator, dtype=torch.float64
            ),
            "time_ids": torch.randint(
                0, 512, (batch, *names["sizes"]), generator=generator
            ).double(),
        }
    if "classes" in names:
        arguments["class_labels"] = torch.arange(batch) % names["classes"]
    if "condition" in names:
        shape = (batch, *names["condition"])
        arguments["timestep_cond"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return arguments


def compute_embedding(
    unet: UNet2DConditionModel, t: Tensor, b: int, arguments: dict[str, Any]
) -> Tensor:
    """The (1, D) embedding of one pixel of sample b at timestep t."""
    condition = arguments.get("timestep_cond")
    frequencies = unet.time_proj(t[None]).to(unet.dtype)
    embedding = unet.time_embedding(
        frequencies, None if condition is None else condition[b : b + 1]
    )
    if "class_labels" in arguments:
        embedding = embedding + unet.class_embedding(arguments["class_labels"][b : b + 1])
    if "added_cond_kwargs" in arguments:
        added = arguments["added_cond_kwargs"]
        sizes = unet.add_time_proj(added["time_ids"][b]).flatten().to(unet.dtype)
        embedding = embedding + unet.add_embedding(
            torch.cat([added["text_embeds"][b], sizes])[None]
        )
    active: Tensor = embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)
    return active


def compute_slowly(
    unet: UNet2DConditionModel,
    x: Tensor,
    text: Tensor,
    timesteps: Tensor,
    arguments: dict[str, Any],
) -> Tensor:
    """The same network, every pixel's embedding computed for itself inside blocks written out
    again."""

    def projected(block: ResnetBlock2D, like: Tensor) -> Tensor:
        """(B, C, h, w); the timestep of a coarser pixel is that of the top left one of its cell."""
        cell = 1
        while (
            -(-x.shape[-2] // cell) != like.shape[-2] or -(-x.shape[-1] // cell) != like.shape[-1]
        ):
            cell *= 2
        out = like.new_empty(len(like), block.time_emb_proj.out_features, *like.shape[-2:])
        for b in range(len(like)):
            for i in range(like.shape[-2]):
                for j in range(like.shape[-1]):
                    embedding = compute_embedding(
                        unet, timesteps[b, i * cell, j * cell], b, arguments
                    )
                    active = embedding if block.skip_time_act else block.nonlinearity(embedding)
                    out[b, :, i, j] = block.time_emb_proj(active)[0]
        return out

    def block_forward(block: ResnetBlock2D) -> Any:
        resize = block.upsample or block.downsample or (lambda hidden: hidden)

        def forward(hidden: Tensor, temb: Tensor) -> Any:
            h = block.conv1(resize(block.nonlinearity(block.norm1(hidden))))
            time = projected(block, h)
            if block.time_embedding_norm == "scale_shift":
                scale, shift = time.chunk(2, dim=1)
                h = block.norm2(h) * (1 + scale) + shift
            else:
                h = block.norm2(h + time)
            h = block.conv2(block.nonlinearity(h))
            skip = resize(hidden)
            skip = skip if block.conv_shortcut is None else block.conv_shortcut(skip)
            return (skip + h) / block.output_scale_factor

        return forward

    blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    for block in blocks:
        block.forward = block_forward(block)
    try:
        output: Tensor = unet(x, 0, text, **arguments).sample
        return output
    finally:
        for block in blocks:
            del block.forward


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equal_to_a_computation_pixel_by_pixel(name: str) -> None:
    config, names = CONFIGS[name]
    unet = make_unet(**config).double()
    x, text = (tensor.double() for tensor in make_inputs(2, 8, 12))
    arguments, timesteps = make_further_arguments(2, names), draw_map(2, 8, 12)
    expected = compute_slowly(unet, x, text, timesteps, arguments)
    ours = unet(x, make_rows(timesteps), text, **arguments).sample
    assert type(ours) is Tensor
    assert (ours - expected).abs().max() < 1e-10
    uniform = unet(x, timesteps[0, 0, 0], text, **arguments).sample
    assert (uniform - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("size", [(6, 10), (4, 12), (4, 4)])
@torch.no_grad()
def test_sizes_that_do_not_halve_evenly_and_pictures_of_one_pixel(size: tuple[int, int]) -> None:
    x, text = make_inputs(2, *size)
    timesteps = draw_map(2, *size)
    assert_same(
        SHARED(x, make_rows(timesteps), text).sample, compute_slowly(SHARED, x, text, timesteps, {})
    )


@settings(max_examples=15)
@given(t=st.lists(st.integers(0, 999), min_size=1, max_size=3), copies=st.sampled_from([1, 2]))
@torch.no_grad()
def test_a_uniform_map_is_a_scalar_timestep_to_the_bit(t: list[int], copies: int) -> None:
    x, text = make_inputs(len(t) * copies)
    expected = SHARED(x, torch.tensor(t * copies), text).sample
    uniform = torch.tensor(t).double()[:, None, None].expand(-1, 16, 16)
    assert torch.equal(SHARED(x, make_rows(uniform, copies), text).sample, expected)


@torch.no_grad()
def test_samples_and_copies_do_not_mix() -> None:
    """One sample with many timesteps, one with a single one, each twice in the network's batch."""
    x, text = make_inputs(4)
    timesteps = draw_map(2, 16, 16)
    timesteps[1] = 300
    both = SHARED(x, make_rows(timesteps, copies=2), text).sample
    for b in range(4):
        alone = SHARED(
            x[b : b + 1], make_rows(timesteps[b % 2 : b % 2 + 1]), text[b : b + 1]
        ).sample
        assert_same(both[b : b + 1], alone)
    assert_same(both[1:4:2], SHARED(x[1:4:2], 300, text[1:4:2]).sample)


@torch.no_grad()
def test_only_distinct_timesteps_are_computed() -> None:
    timesteps = torch.tensor([[[5.0, 5.0], [7.25, 5.0]], [[5.0, 9.0], [9.0, 9.0]]]).double()
    rows = make_rows(timesteps, copies=2)
    assert isinstance(rows, TimeRows) and rows.shape == (8,)
    assert sorted(rows.as_subclass(Tensor).tolist()) == [5.0] * 4 + [7.25] * 2 + [9.0] * 2
    places = rows.token_rows.find((2, 2))
    assert torch.equal(rows.as_subclass(Tensor)[places].double(), timesteps.repeat(2, 1, 1))
    assert torch.equal(
        rows.token_rows.sample[places], torch.arange(4)[:, None, None].expand(-1, 2, 2)
    )


@torch.no_grad()
def test_nothing_is_left_behind_not_even_by_an_exception(unet: UNet2DConditionModel) -> None:
    x, text = make_inputs(1)
    before, expected = find_traces(unet), unet(x, 7, text).sample
    assert not torch.equal(unet(x, make_rows(draw_map(1, 16, 16)), text).sample, expected)
    for size in [(6, 6), (12, 16), (32, 16), (16, 24)]:
        with pytest.raises(
            UserError, match=f"known for tokens {size[0]}x{size[1]}.*the network has 16x16"
        ):
            unet(x, make_rows(draw_map(1, *size)), text)
    assert find_traces(unet) == before
    assert torch.equal(unet(x, 7, text).sample, expected)


def test_rows_carry_gradients_as_a_scalar_timestep_does(unet: UNet2DConditionModel) -> None:
    x, text = make_inputs(2)
    names = [
        "time_embedding.linear_1.weight",
        "mid_block.resnets.0.time_emb_proj.weight",
        "conv_in.weight",
    ]
    parameters = [unet.get_parameter(name) for name in names]
    timesteps = torch.tensor([40.0, 700.0]).double()[:, None, None].repeat(1, 16, 16)

    def gradients(timestep: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(unet(x, timestep, text).sample[0].square().mean(), parameters)

    expected = gradients(torch.tensor([40, 700]))
    apart = timesteps.clone()
    apart[1, 0, 0] = 3  # of a sample that the loss does not see: so that there are rows
    for ours, theirs in zip(gradients(make_rows(apart)), expected, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))
    for ours, theirs in zip(gradients(make_rows(timesteps)), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_are_those_of_the_computation_pixel_by_pixel() -> None:
    unet = make_unet().double()
    x, text = (tensor.double() for tensor in make_inputs(1, 4, 8))
    names = [
        "time_embedding.linear_1.weight",
        "up_blocks.1.resnets.0.time_emb_proj.weight",
        "conv_in.weight",
    ]
    parameters = [unet.get_parameter(name) for name in names]
    timesteps = draw_map(1, 4, 8)
    outputs = (
        unet(x, make_rows(timesteps), text).sample,
        compute_slowly(unet, x, text, timesteps, {}),
    )
    ours, theirs = (torch.autograd.grad(output.square().mean(), parameters) for output in outputs)
    for own, expected in zip(ours, theirs, strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(own, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def test_rows_that_would_be_mixed_are_refused() -> None:
    rows = make_rows(draw_map(2, 4, 4))
    mix: Callable[[], Any]
    for mix in (lambda: rows.mean(), lambda: rows[:3], lambda: rows[None], lambda: rows @ rows):
        with pytest.raises(UserError, match="The network: .* mixes rows of different timesteps"):
            mix()
    with pytest.raises(UserError, match=r"timesteps \(\d+, 1, 1, 1\) meet \(3, 4, 4, 4\)"):
        rows[:, None, None, None] + torch.zeros(3, 4, 4, 4)


def test_as_many_text_as_image_tokens_are_refused() -> None:
    with pytest.raises(
        UserError, match="6 text tokens and as many image tokens cannot be told apart"
    ):
        make_time_rows(
            draw_map(1, 2, 3), Tensor.float, network="It", text=torch.zeros(1), text_length=6
        )


def test_outside_of_a_session_a_graph_is_an_error_and_never_a_wrong_picture(
    unet: UNet2DConditionModel,
) -> None:
    """Of rows as `make_pixel_timesteps` makes them dynamo would lose the tokens."""
    x, text = make_inputs(1)
    compiled: Any = torch.compile(unet, backend="eager")
    with torch.no_grad(), pytest.raises(Exception, match="a timestep per pixel does not survive"):
        compiled(x, make_rows(draw_map(1, 16, 16)), text)


@pytest.mark.parametrize("lengths", [3, [3, 1], [1, 3]])
@pytest.mark.parametrize(("text_first", "padding"), [(True, 0), (False, 0), (False, 2)])
def test_rows_of_texts_of_their_own_length(lengths: Any, text_first: bool, padding: int) -> None:
    timesteps = torch.arange(10, dtype=torch.float64).view(2, 1, 5)
    text = torch.tensor([50.0, 60.0], dtype=torch.float64)
    made: Any = make_time_rows(
        timesteps,
        Tensor.float,
        network="It",
        text=text,
        text_length=lengths,
        text_first=text_first,
        padding=padding,
    )
    values = made.as_subclass(Tensor)
    for image, length in enumerate([lengths] * 2 if isinstance(lengths, int) else lengths):
        row = values[made.token_rows.rows[(8 + padding,)][image]].tolist()
        begin = length if text_first else 0
        assert row[begin : begin + 5] == timesteps[image, 0].tolist()
        assert set(row[:begin] + row[begin + 5 :]) == {text[image].item()}
        alone = values[made.token_rows.rows[(5 + padding,)][image]].tolist()
        assert alone == timesteps[image, 0].tolist() + [text[image].item()] * padding
        assert values[made.token_rows.rows[(3,)][image]].tolist() == [text[image].item()] * 3
