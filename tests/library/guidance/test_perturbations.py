"""What is done to the perturbed rows of a batch: against attention written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndm.attention import FusedMaps
from asyndm.errors import UserError
from asyndm.guidance.base import Guidance, Rows
from asyndm.guidance.perturbations import (
    BlurredQueries,
    IdentityAttention,
    IdentityJointAttention,
    SkippedBlocks,
    find_attention,
    find_blocks,
    find_map_size,
)
from asyndm.guidance.perturbed import PerturbedAttention, SmoothedEnergy
from tests.library.guidance.pairs import PROMPTS, draw, make_pag, make_pipe
from tests.pipelines.registry import PIPELINES


def attend(layer: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Self-attention with other queries, by its matrix."""
    query, key, value = change(layer.to_q(x)), layer.to_k(x), layer.to_v(x)
    q, k, v = (each.unflatten(-1, (layer.heads, -1)) for each in (query, key, value))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    made = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
    out: Tensor = layer.to_out[0](made)
    return out


def blur_by_convolution(query: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """As the authors do, but for pictures of any shape."""
    picture: Tensor = query.transpose(1, 2).unflatten(2, (height, width))
    if math.isinf(sigma):
        return query.mean(1, keepdim=True).expand_as(query)
    for axis, size in ((2, height), (3, width)):
        taps = math.ceil(6 * sigma) // 2 * 2 + 1
        taps = min(taps, size if size % 2 else size - 1)
        places = torch.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps)
        kernel = torch.exp(-0.5 * (places / sigma) ** 2)
        kernel = (kernel / kernel.sum()).repeat(picture.shape[1], 1, 1)
        side = taps // 2
        pad = (0, 0, side, side) if axis == 2 else (side, side, 0, 0)
        padded = F.pad(picture, pad, mode="reflect")
        kernel = kernel[..., None] if axis == 2 else kernel[:, :, None]
        picture = F.conv2d(padded, kernel, groups=picture.shape[1])
    return picture.flatten(2).transpose(1, 2)


class WrittenOut:
    """For diffusers' PAG pipelines: the queries of the last third of rows are blurred."""

    def __init__(self, sigma: float, size: tuple[int, int]) -> None:
        self.sigma, self.size = sigma, size

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        *plain, perturbed = hidden_states.chunk(3)
        made = [attend(attn, each, lambda query: query) for each in plain]
        blurred = attend(
            attn, perturbed, lambda query: blur_by_convolution(query, *self.size, self.sigma)
        )
        return torch.cat([*made, blurred])


def test_a_picture_is_made_with_blurred_queries() -> None:
    """Of 4x6 tokens in the middle block."""
    theirs = make_pag("sdxl")
    processor: Any = WrittenOut(1.0, (4, 6))
    theirs.set_pag_applied_layers(["mid"], (processor, processor))
    expected = draw("sdxl", pipe=theirs, pag_scale=3.0)
    ours = draw("sdxl", guidance=SmoothedEnergy(sigma=1.0))
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)
    assert (ours - draw("sdxl")).abs().max() > 0.1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sigma", [None, math.inf, 1.0, 10.0])
def test_one_layer_changes_its_last_rows_alone(sigma: float | None, fused: bool) -> None:
    """Also where queries, keys and values are projected together. Of σ = 10 the kernel is 3x5."""
    unet = copy.deepcopy(make_pipe("sdxl").unet)
    if fused:
        unet.fuse_qkv_projections()
    layers = find_attention(unet, ["mid"])
    layer: Any = next(iter(layers.values()))
    x = torch.randn(3, 24, layer.inner_dim, generator=torch.Generator().manual_seed(0))
    perturbation = (
        IdentityAttention("pag", {"mid": layer})
        if sigma is None
        else BlurredQueries("seg", {"mid": layer}, sigma)
    )
    with torch.no_grad(), perturbation:
        plain = layer(x)
        perturbation.begin(Rows(slice(0, 1), slice(1, 2), slice(2, 3)), (16, 24))
        made = layer(x)
        perturbation.end()
        if sigma is None:
            expected = layer.to_out[0](layer.to_v(x))
        else:
            expected = attend(layer, x, lambda query: blur_by_convolution(query, 4, 6, sigma))
    assert torch.equal(made[:2], plain[:2])
    torch.testing.assert_close(made[2], expected[2], atol=1e-6, rtol=1e-5)
    assert (made[2] - plain[2]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "part"), [("sd3", "attn"), ("sd35", "attn"), ("sd35", "attn2")])
def test_joint_attention_leaves_image_tokens_themselves_and_the_text(name: str, part: str) -> None:
    """Also with normed queries and keys, and where the image attends to itself beside it."""
    layer: Any = getattr(make_pipe(name).transformer.transformer_blocks[0], part)
    draws = torch.Generator().manual_seed(0)
    inputs = {"hidden_states": torch.randn(2, 6, layer.query_dim, generator=draws)}
    if part == "attn":
        inputs["encoder_hidden_states"] = torch.randn(2, 5, layer.query_dim, generator=draws)
    perturbation = IdentityJointAttention("pag", {"0": layer})
    with torch.no_grad(), perturbation:
        plain = layer(**inputs)
        perturbation.begin(Rows(slice(0, 1), None, slice(1, 2)), (2, 3))
        made = layer(**inputs)
        perturbation.end()
        expected = attend_jointly(layer, inputs)
    pairs = zip(plain, made, expected, strict=True) if part == "attn" else [(plain, made, expected)]
    for before, after, right in pairs:
        assert torch.equal(after[0], before[0])
        torch.testing.assert_close(after[1], right[1], atol=1e-6, rtol=1e-5)


def test_a_reader_of_the_same_layer_reads_what_is_not_perturbed() -> None:
    """Whichever of them came first."""
    layer: Any = make_pipe("sd3").transformer.transformer_blocks[0].attn
    draws = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(2, 6, layer.query_dim, generator=draws)
        for name in ("hidden_states", "encoder_hidden_states")
    }
    perturbation = IdentityJointAttention("pag", {"0": layer})
    readers = [FusedMaps([layer], [[[1]]], text_first=False) for _ in range(2)]
    orders: list[list[AbstractContextManager[Any]]]
    orders = [[], [perturbation, readers[0]], [readers[1], perturbation]]
    made = []
    with torch.no_grad():
        for contexts in orders:
            with ExitStack() as stack:
                for context in contexts:
                    stack.enter_context(context)
                for reader in readers:
                    if reader in contexts:
                        reader.listen(slice(0, 1), (2, 3))
                perturbation.begin(Rows(slice(0, 1), None, slice(1, 2)), (2, 3))
                made.append(layer(**inputs)[0])
    plain, *both = made
    for each, reader in zip(both, readers, strict=False):
        assert torch.equal(each[0], plain[0])
        torch.testing.assert_close(each[1], attend_jointly(layer, inputs)[0][1])
        assert reader.maps().shape == (1, 1, 2, 3)
    assert torch.equal(readers[0].maps(), readers[1].maps())


def attend_jointly(layer: Any, inputs: Mapping[str, Tensor]) -> Any:
    """Joint attention by its matrix, in which image tokens do not see each other."""
    image, text = inputs["hidden_states"], inputs.get("encoder_hidden_states")
    n = image.shape[1]
    projected = []
    for kind in "qkv":
        norm, added = (getattr(layer, f"norm_{each}{kind}", None) for each in ("", "added_"))
        heads = getattr(layer, f"to_{kind}")(image).unflatten(-1, (layer.heads, -1))
        parts = [heads if norm is None else norm(heads)]
        if text is not None:
            heads = getattr(layer, f"add_{kind}_proj")(text).unflatten(-1, (layer.heads, -1))
            parts.append(heads if added is None else added(heads))
        projected.append(torch.cat(parts, dim=1))
    q, k, v = projected
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    scores[..., :n, :n] += torch.eye(n).log()
    made = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
    out = layer.to_out[0](made[:, :n])
    return out if text is None else (out, layer.to_add_out(made[:, n:]))


@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_a_skipped_block_is_one_that_is_not_there(name: str) -> None:
    """Of FLUX one of two streams and one of a single one."""
    network, taken = make_pipe(name).transformer, []

    def take(module: nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        taken.append(kwargs)

    handle = network.register_forward_pre_hook(take, with_kwargs=True)
    PIPELINES[name].run(make_pipe(name), PROMPTS[0], num_inference_steps=1, guidance_scale=4.0)
    handle.remove()
    arguments = {
        key: torch.cat([value, value]) if isinstance(value, Tensor) and "ids" not in key else value
        for key, value in taken[0].items()
    }
    rows = len(taken[0]["hidden_states"])
    shorter = copy.copy(network)
    shorter._modules = dict(network._modules)
    for kind, blocks in network.named_children():
        if kind.endswith("transformer_blocks"):
            shorter._modules[kind] = nn.ModuleList(list(blocks)[1:])
    asked = [0] if name == "sd35" else [0, len(network.transformer_blocks)]
    perturbation = SkippedBlocks("slg", find_blocks(network, asked))
    with torch.no_grad(), perturbation:
        plain = network(**arguments)[0]
        perturbation.begin(Rows(slice(0, rows), None, slice(rows, 2 * rows)), (8, 12))
        made = network(**arguments)[0]
        perturbation.end()
        expected = shorter(**arguments)[0]
    assert torch.equal(made[:rows], plain[:rows])
    torch.testing.assert_close(made[rows:], expected[rows:], atol=1e-5, rtol=1e-5)
    assert (made[rows:] - plain[rows:]).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [PerturbedAttention(), SmoothedEnergy(sigma=1.0)])
def test_blocks_compiled_one_by_one_are_perturbed(guidance: Guidance) -> None:
    expected = draw("sd", guidance=guidance)
    pipe = PIPELINES["sd"].build()
    pipe.unet.compile_repeated_blocks(backend="eager")
    compiled = [module for module in pipe.unet.modules() if module._compiled_call_impl is not None]
    assert torch.equal(draw("sd", pipe=pipe, guidance=guidance), expected)
    assert compiled and all(module._compiled_call_impl is not None for module in compiled)


def test_attention_that_cannot_be_reached_is_an_error() -> None:
    """Its processor does not call torch's kernel."""
    pipe = make_pipe("sd3")
    layer = pipe.transformer.transformer_blocks[1].attn

    class ByHand:
        def __call__(
            self, attn: Any, image: Tensor, *, encoder_hidden_states: Tensor, **_: Any
        ) -> Any:
            inputs = {"hidden_states": image, "encoder_hidden_states": encoder_hidden_states}
            return attend_jointly(attn, inputs)

    kept, layer.processor = layer.processor, ByHand()
    try:
        with pytest.raises(UserError, match=r"guidance=pag: transformer_blocks.1.attn ran"):
            draw("sd3", guidance=PerturbedAttention(layers=[1]))
    finally:
        layer.processor = kept


def test_a_picture_that_is_not_of_halves_is_refused() -> None:
    assert find_map_size(3 * 4, (9, 13)) == (3, 4)
    with pytest.raises(UserError, match="a layer has 10 tokens, which latents of 16x24"):
        find_map_size(10, (16, 24))
