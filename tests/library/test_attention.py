from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from asyndm.attention import FusedMaps, ProjectedMaps, Reading
from asyndm.errors import UserError
from asyndm.networks.unet import find_cross_attention, find_layers
from tests.conftest import make_unet
from tests.library.traces import find_traces

TOKENS = [[[2], [4, 5, 6]], [[1]]]
CONDITIONAL = slice(2, 4)


def make_inputs(height: int = 16, width: int = 16, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((batch, 4, height, width), generator=generator)
    return x, 3 * torch.randn((batch, 9, 16), generator=generator)


def make_reader(unet: UNet2DConditionModel, factor: int | None = None) -> ProjectedMaps:
    return ProjectedMaps(find_layers(unet, factor)[1], TOKENS)


def average_tokens(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """The maps of `TOKENS` from shares (B, P, L)."""
    maps = torch.zeros(len(TOKENS), 2, *size)
    for image, subjects in enumerate(TOKENS):
        for subject, positions in enumerate(subjects):
            maps[image, subject] = probabilities[image][:, positions].mean(-1).view(size)
    return maps


def compute_textbook(
    unet: UNet2DConditionModel, x: Tensor, text: Tensor, size: tuple[int, int]
) -> Tensor:
    """Maps from the explicit attention probabilities of diffusers' unfused processor."""
    probabilities: list[Tensor] = []
    layers = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    for layer in layers:

        def record(
            query: Tensor,
            key: Tensor,
            mask: Tensor | None = None,
            original: Any = layer.get_attention_scores,
        ) -> Any:
            shares = original(query, key, mask)
            if shares.shape[1] == math.prod(size):
                probabilities.append(
                    shares.view(len(x), -1, *shares.shape[1:])[-len(TOKENS) :].mean(1)
                )
            return shares

        layer.get_attention_scores = record
    unet.set_attn_processor(AttnProcessor())
    unet(x, 10, text)
    return average_tokens(torch.stack(probabilities).mean(0), size)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (32, 12)])
@torch.no_grad()
def test_maps_are_the_probabilities_of_the_unfused_layers(
    factor: int, size: tuple[int, int]
) -> None:
    x, text = make_inputs(*size)
    unet, grid = make_unet(), (size[0] // factor, size[1] // factor)
    with make_reader(unet, factor) as attention:
        attention.listen(CONDITIONAL, grid)
        unet(x, 10, text)
        maps = attention.maps()
    expected = compute_textbook(unet, x, text, grid)
    assert maps.shape == expected.shape
    assert torch.allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert (maps[1, 1] == 0).all() and maps[0].std() > 1e-4


@torch.no_grad()
def test_the_output_and_the_network_are_untouched(unet: UNet2DConditionModel) -> None:
    x, text = make_inputs()
    before, expected = find_traces(unet), unet(x, 10, text).sample
    with pytest.raises(RuntimeError, match="on purpose"), make_reader(unet) as attention:
        attention.listen(CONDITIONAL, (4, 4))
        assert torch.equal(unet(x, 10, text).sample, expected)
        raise RuntimeError("on purpose")
    assert find_traces(unet) == before


@torch.no_grad()
def test_fused_projections_and_a_whole_conditional_batch(unet: UNet2DConditionModel) -> None:
    x, text = make_inputs()
    with make_reader(unet) as attention:
        attention.listen(CONDITIONAL, (4, 4))
        unet(x, 10, text)
        expected = attention.maps()
        attention.listen(slice(0, 2), (4, 4))
        unet(x[2:], 10, text[2:])
        assert torch.allclose(attention.maps(), expected, rtol=1e-5, atol=1e-7)
    unet.fuse_qkv_projections()
    with make_reader(unet) as attention:
        attention.listen(CONDITIONAL, (4, 4))
        unet(x, 10, text)
        assert torch.allclose(attention.maps(), expected, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_only_the_evaluation_listened_to_is_read(unet: UNet2DConditionModel) -> None:
    """A negative prompt's call of its own comes after that of the prompt."""
    x, text = make_inputs()
    with make_reader(unet) as attention:
        unet(x, 10, text)
        with pytest.raises(UserError, match="no attention map was read"):
            attention.maps()
        attention.listen(CONDITIONAL, (4, 4))
        unet(x, 10, text)
        expected = attention.maps()
        attention.ignore()
        unet(x.flip(0), 500, text.flip(0))
        assert torch.equal(attention.maps(), expected)
        attention.listen(CONDITIONAL, (4, 4))
        unet(x, 10, text)
        assert torch.equal(attention.maps(), expected)


def test_maps_are_differentiable(unet: UNet2DConditionModel) -> None:
    x, text = make_inputs()
    with make_reader(unet, 2) as attention:
        attention.listen(CONDITIONAL, (8, 8))
        unet(x, 10, text)
        attention.maps()[0, 0, 0].sum().backward()
    query = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q.weight
    assert query.grad is not None and query.grad.abs().max() > 0


TWO_BLOCKS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def test_every_layer_is_found_at_the_size_it_works_at(unet: UNet2DConditionModel) -> None:
    found = {factor: len(layers) for factor, layers in find_cross_attention(unet).items()}
    assert found == {2: 3, 4: 4}
    assert find_layers(unet, None)[0] == 4
    assert find_layers(make_unet(block_out_channels=(8, 8), **TWO_BLOCKS), None)[0] == 1


def test_wrong_factors_networks_and_tokens_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="attention_factor=8: .* only at 2, 4 "):
        find_layers(unet, 8)
    plain: dict[str, Any] = {
        "down_block_types": ("DownBlock2D",) * 3,
        "up_block_types": ("UpBlock2D",) * 3,
    }
    with pytest.raises(UserError, match="no cross-attention"):
        find_layers(make_unet(mid_block_type=None, **plain), None)
    x, text = make_inputs(batch=2)
    with ProjectedMaps(find_layers(unet, None)[1], [[[9]]]) as attention:
        attention.listen(slice(0, 1), (4, 4))
        with pytest.raises(UserError, match=r"token positions \[9\], but the text has 9 tokens"):
            unet(x, 10, text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 2.0},
        {"factor": True},
        {"layers": 3},
        {"layers": []},
        {"layers": [1, 0.5]},
        {"keys": "image"},
        {"text": "clap"},
    ],
    ids=str,
)
def test_a_wrong_reading_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"attention_{next(iter(wrong))} must be"):
        Reading(**wrong)


def test_layers_are_chosen_by_number() -> None:
    layers = [nn.Identity() for _ in range(6)]
    assert Reading().choose(layers, slice(2, 4)) == layers[2:4]
    assert Reading(layers=[5, 0]).choose(layers, slice(2, 4)) == [layers[5], layers[0]]
    with pytest.raises(UserError, match=r"attention_layers: the network has layers 0 to 5, not 6"):
        Reading(layers=[1, 6]).choose(layers, slice(2, 4))


class Layer(nn.Module):
    """Attention as a transformer block has it: heads, a norm, then torch's kernel."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.RMSNorm(width // heads)

    def projected(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.to_q(queries), self.to_k(keys), self.to_v(keys))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.norm(query) * 3, self.norm(key), value

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.projected(queries, keys)
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    def probabilities(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, heads, queries, keys), written out."""
        query, key, _ = self.projected(queries, keys)
        scores: Tensor = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return (scores if bias is None else scores + bias).softmax(-1)


GRID, TEXT = (3, 5), 9


def draw_tokens(length: int, batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn((batch, length, 32), generator=torch.Generator().manual_seed(seed))


def read(layers: list[Layer], reader: FusedMaps, *arguments: Any) -> Tensor:
    """The maps of the last two rows; the layers' outputs must not move."""
    expected = [layer(*arguments) for layer in layers]
    with reader:
        reader.listen(CONDITIONAL, GRID)
        assert all(
            torch.equal(layer(*arguments), own) for layer, own in zip(layers, expected, strict=True)
        )
        return reader.maps()


@pytest.mark.parametrize("masked", ["no mask", "keys", "queries and keys", "whether"])
@pytest.mark.parametrize("keys", ["joint", "text"])
@pytest.mark.parametrize("text_first", [True, False], ids=["text first", "image first"])
@torch.no_grad()
def test_maps_of_a_joint_sequence_are_the_softmax_written_out(
    text_first: bool, keys: str, masked: str
) -> None:
    n = math.prod(GRID)
    sequence, layers = draw_tokens(TEXT + n), [Layer(), Layer()]
    nn.init.normal_(layers[1].to_q.weight)
    text, image = (
        (slice(0, TEXT), slice(TEXT, None)) if text_first else (slice(n, None), slice(0, n))
    )
    bias = {
        "no mask": None,
        "keys": torch.randn(4, 1, 1, TEXT + n),
        "queries and keys": torch.randn(1, 1, TEXT + n, TEXT + n),
        "whether": torch.rand(4, 1, 1, TEXT + n) < 0.8,
    }[masked]
    scores = bias
    if bias is not None and masked == "whether":
        scores = torch.where(bias, 0.0, -math.inf)
    maps = read(layers, FusedMaps(layers, TOKENS, text_first, keys), sequence, sequence, bias)
    explicit = []
    for layer in layers:
        shares = layer.probabilities(sequence, sequence, scores)[..., image, text]
        shares = shares / shares.sum(-1, keepdim=True) if keys == "text" else shares
        explicit.append(shares.mean(1)[CONDITIONAL])
    expected = average_tokens(torch.stack(explicit).mean(0), GRID)
    assert torch.allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert maps[0].std() > 1e-3 and (maps[1, 1] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_maps_of_cross_attention_are_the_softmax_written_out(masked: bool) -> None:
    """Padding is kept out by a bias, one for each sample, as diffusers makes it of a text mask."""
    image, text, layer = draw_tokens(math.prod(GRID)), draw_tokens(TEXT, seed=1), Layer()
    padding = torch.zeros(4, 1, 1, TEXT)
    padding[0, ..., 5:] = padding[2, ..., 7:] = padding[3, ..., 3:] = -10000
    bias = padding if masked else None
    maps = read([layer], FusedMaps([layer], TOKENS), image, text, bias)
    shares = layer.probabilities(image, text, bias).mean(1)[CONDITIONAL]
    assert torch.allclose(maps, average_tokens(shares, GRID), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_more_subjects_than_a_head_has_channels() -> None:
    image, text, layer = draw_tokens(math.prod(GRID), 1), draw_tokens(TEXT + 6, 1, seed=1), Layer()
    each = [[[position] for position in range(TEXT + 6)]]
    with FusedMaps([layer], each) as reader:
        reader.listen(slice(0, 1), GRID)
        layer(image, text)
        maps = reader.maps()
    expected = layer.probabilities(image, text).mean(1).transpose(1, 2).view(1, TEXT + 6, *GRID)
    assert torch.allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(maps.sum(1), torch.ones(1, *GRID))


def test_fused_maps_are_differentiable() -> None:
    image, text, layer = draw_tokens(math.prod(GRID), 2), draw_tokens(TEXT, 2, seed=1), Layer()
    with FusedMaps([layer], TOKENS) as reader:
        reader.listen(slice(0, 2), GRID)
        layer(image, text)
        (ours,) = torch.autograd.grad(reader.maps()[0, 1].square().sum(), layer.to_q.weight)
    shares = layer.probabilities(image, text).mean(1)
    (expected,) = torch.autograd.grad(
        shares[0][:, [4, 5, 6]].mean(-1).square().sum(), layer.to_q.weight
    )
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@torch.no_grad()
def test_a_stock_layer_is_read_as_it_norms_and_orders_its_streams() -> None:
    """SD3's joint attention, image first, from the outputs of its own norms."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    ).eval()
    layer = network.transformer_blocks[0].attn
    arguments = (
        torch.randn(4, 16, 6, 10),
        torch.randn(4, TEXT, 16),
        torch.randn(4, 16),
        torch.tensor([400.0]),
    )
    for part in (layer.to_q, layer.add_k_proj):
        nn.init.normal_(part.weight)
    before, expected = find_traces(network), network(*arguments).sample
    with FusedMaps([layer], TOKENS, text_first=False) as reader:
        reader.listen(CONDITIONAL, GRID)
        assert torch.equal(network(*arguments).sample, expected)
        maps = reader.maps()
    assert find_traces(network) == before

    normed: dict[str, Tensor] = {}
    for name in ("norm_q", "norm_k", "norm_added_k"):
        part = layer.get_submodule(name)
        part.register_forward_hook(
            lambda module, args, output, name=name: normed.update({name: output})
        )
    network(*arguments)
    keys = torch.cat([normed["norm_k"], normed["norm_added_k"]], 2)
    shares = (normed["norm_q"] @ keys.transpose(-1, -2) / 8**0.5).softmax(-1)
    shares = shares[CONDITIONAL, ..., math.prod(GRID) :].mean(1)
    assert torch.allclose(maps, average_tokens(shares, GRID), rtol=1e-5, atol=1e-7)
    assert maps[0].std() > 1e-3


@torch.no_grad()
def test_only_one_layer_and_its_first_call_are_read_even_after_an_exception() -> None:
    image, text, layer, other = (
        draw_tokens(math.prod(GRID)),
        draw_tokens(TEXT, seed=1),
        Layer(),
        Layer(),
    )
    with FusedMaps([layer], TOKENS) as reader:
        reader.listen(CONDITIONAL, GRID)
        with pytest.raises(RuntimeError):
            layer(image, text[..., :5])
        other(image, text)
        with pytest.raises(UserError, match="no attention map was read"):
            reader.maps()
        layer(image, text)
        expected = reader.maps()
        other(image.flip(1), text.flip(1))
        assert torch.equal(reader.maps(), expected)
    shares = layer.probabilities(image, text).mean(1)[CONDITIONAL]
    assert torch.allclose(expected, average_tokens(shares, GRID), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_attention_that_does_not_go_through_torchs_kernel_is_an_error() -> None:
    layer = Attention(32, heads=4, dim_head=8, processor=AttnProcessor())
    image = draw_tokens(math.prod(GRID))
    with FusedMaps([layer], TOKENS) as reader:
        reader.listen(CONDITIONAL, GRID)
        layer(image)
        with pytest.raises(
            UserError, match="does not go through torch's scaled_dot_product_attention"
        ):
            reader.maps()
        layer.set_processor(AttnProcessor2_0())
        layer(image)
        assert reader.maps().shape == (2, 2, *GRID)
