"""Attention maps against the softmax written out from each layer's own weights and the inputs it
was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asyndm.attention import Reading
from asyndm.networks import find_denoiser, find_family
from asyndm.networks.unet import find_layers
from asyndm.records import StepRecord
from asyndm.subjects import as_subject
from tests.library.networks.cases import (
    PROMPTS,
    SUBJECTS,
    build,
    make_call,
    measure_distance,
    sample_ours,
)

Arguments = dict[str, Any]
ROUNDING = 1e-5


def project(x: Tensor, linear: Any, heads: int, norm: Any = None) -> Tensor:
    """(B, heads, N, d) float64: a projection written out, with its RMS norm."""
    bias = None if linear.bias is None else linear.bias.double()
    split: Tensor = (
        F.linear(x.double(), linear.weight.double(), bias)
        .unflatten(-1, (heads, -1))
        .transpose(1, 2)
    )
    if norm is None:
        return split
    root: Tensor = (split.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    weight: Tensor = norm.weight.double()
    return split * root * weight


def compute_shares(
    query: Tensor, text: Tensor, image: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    """(B, heads, n, L): how much image tokens attend to each text token, of all keys; hidden (B, L)
    text is not seen."""
    keys = text if image is None else torch.cat([text, image], 2)
    scores: Tensor = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if hidden is not None:
        blind = F.pad(hidden, (0, scores.shape[-1] - hidden.shape[1]))
        scores = scores.masked_fill(blind[:, None, None], -torch.inf)
    return scores.softmax(-1)[..., : text.shape[2]]


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Neighbouring channels as complex numbers, turned by (N, d/2) angles."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def compute_angles(ids: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(N, d/2) of rotary positions: 10000^(-2i/d) times each axis."""
    axes = []
    for axis, size in enumerate(sizes):
        frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        axes.append(ids[:, axis].double()[:, None] * frequencies)
    return torch.cat(axes, -1)


def cross(layer: Any, given: Arguments, network: Arguments) -> Tensor:
    """PixArt, Sana and UNets: padding is masked where the pipeline says so."""
    text = given["encoder_hidden_states"]
    bias = given.get("attention_mask")
    hidden = None if bias is None else bias.view(len(text), -1) < 0
    query = project(given["hidden_states"], layer.to_q, layer.heads)
    return compute_shares(query, project(text, layer.to_k, layer.heads), hidden=hidden)


def sd3(layer: Any, given: Arguments, network: Arguments) -> Tensor:
    image, text = given["hidden_states"], given["encoder_hidden_states"]
    return compute_shares(
        project(image, layer.to_q, layer.heads, layer.norm_q),
        project(text, layer.add_k_proj, layer.heads, layer.norm_added_k),
        project(image, layer.to_k, layer.heads, layer.norm_k),
    )


def flux(layer: Any, given: Arguments, network: Arguments) -> Tensor:
    image, text = given["hidden_states"], given["encoder_hidden_states"]
    places, words = (compute_angles(network[ids], (4, 6, 6)) for ids in ("img_ids", "txt_ids"))
    return compute_shares(
        turn(project(image, layer.to_q, layer.heads, layer.norm_q), places),
        turn(project(text, layer.add_k_proj, layer.heads, layer.norm_added_k), words),
        turn(project(image, layer.to_k, layer.heads, layer.norm_k), places),
    )


def qwen(layer: Any, given: Arguments, network: Arguments) -> Tensor:
    """Its picture's middle is the origin, and text goes on from the larger half of its sides."""
    image, text = given["hidden_states"], given["encoder_hidden_states"]
    _, h, w = network["img_shapes"][0][0]
    grid = torch.cartesian_prod(torch.arange(h) - (h - h // 2), torch.arange(w) - (w - w // 2))
    places = compute_angles(F.pad(grid, (1, 0)), (4, 6, 6))
    words = compute_angles(
        (torch.arange(text.shape[1]) + max(h // 2, w // 2))[:, None].expand(-1, 3), (4, 6, 6)
    )
    mask = network.get("encoder_hidden_states_mask")
    return compute_shares(
        turn(project(image, layer.to_q, layer.heads, layer.norm_q), places),
        turn(project(text, layer.add_k_proj, layer.heads, layer.norm_added_k), words),
        turn(project(image, layer.to_k, layer.heads, layer.norm_k), places),
        None if mask is None else ~mask.bool(),
    )


@dataclass(frozen=True)
class Case:
    """How a network's shares are written out, its layers, and where the prompts are in its first
    batch."""

    shares: Callable[[Any, Arguments, Arguments], Tensor]
    layers: Callable[[Any], list[Any]]
    rows: slice
    factor: int = 1


def double_blocks(network: Any) -> list[Any]:
    return [block.attn for block in network.transformer_blocks]


def middle(network: Any) -> list[Any]:
    return double_blocks(network)[1:2]


def second(network: Any) -> list[Any]:
    return [block.attn2 for block in network.transformer_blocks]


def quarter(network: Any) -> list[Any]:
    return list(find_layers(network, 4)[1])


GUIDED, ALONE = slice(2, 4), slice(0, 2)
CASES = {
    "sd": Case(cross, quarter, GUIDED, 4),
    "sdxl": Case(cross, quarter, GUIDED, 4),
    "sd3": Case(sd3, middle, GUIDED),
    "sd35": Case(sd3, middle, GUIDED),
    "flux": Case(flux, double_blocks, ALONE),
    "flux_schnell": Case(flux, double_blocks, ALONE),
    "qwen": Case(qwen, double_blocks, ALONE),
    "pixart": Case(cross, second, GUIDED),
    "pixart_alpha": Case(cross, second, GUIDED),
    "sana": Case(cross, second, GUIDED),
}


def read_first_maps(name: str, **changes: Any) -> tuple[Tensor, Tensor]:
    """The maps of the first evaluation, and the shares (layers, B, heads, n, L) of what its layers
    were given."""
    pipe, case = build(name), CASES[name]
    given: list[tuple[Any, Arguments]] = []
    whole: list[Arguments] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        given.append(
            (
                module,
                {**bound, **bound.pop("kwargs", {}), **bound.pop("cross_attention_kwargs", {})},
            )
        )

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        whole.append(dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments))

    layers, kept = case.layers(find_denoiser(pipe)), list[StepRecord]()
    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    handles.append(find_denoiser(pipe).register_forward_pre_hook(begin, with_kwargs=True))
    try:
        sample_ours(name, num_inference_steps=2, callback=kept.append, **changes)
    finally:
        for handle in handles:
            handle.remove()
    found = [case.shares(layer, own, whole[0])[case.rows] for layer, own in given[: len(layers)]]
    maps = kept[0].maps
    assert maps is not None and [layer for layer, _ in given[: len(layers)]] == layers
    return maps, torch.stack(found)


def select_subjects(name: str, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, S, h, w): the mean over layers, heads and each subject's tokens; nothing where an image
    has fewer subjects."""
    pipe = build(name)
    arguments = make_call(name, pipe, PROMPTS)
    expected = torch.zeros(2, 2, *size, dtype=torch.float64)
    for image, (prompt, words) in enumerate(zip(PROMPTS, SUBJECTS, strict=True)):
        said = [as_subject(word) for word in words]
        for i, tokens in enumerate(
            find_family(pipe).positions(pipe, prompt, said, Reading(), arguments)
        ):
            expected[image, i] = shares.mean((0, 2))[image][:, tokens].mean(-1).view(size)
    return expected


@pytest.mark.parametrize("name", CASES)
def test_maps_are_the_softmax_written_out(name: str) -> None:
    maps, found = read_first_maps(name)
    expected = select_subjects(name, found, (maps.shape[2], maps.shape[3]))
    assert measure_distance(maps, expected) <= ROUNDING
    for each in (expected[0, 0], expected[1, 0], expected[1, 1]):
        assert each.std() > 1e-3 * each.mean()
    assert (maps[0, 1] == 0).all()


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_keys_of_text_alone_are_shares_of_the_text(name: str) -> None:
    maps, found = read_first_maps(name, attention_keys="text")
    expected = select_subjects(
        name, found / found.sum(-1, keepdim=True), (maps.shape[2], maps.shape[3])
    )
    assert measure_distance(maps, expected) <= ROUNDING


def test_layers_that_are_asked_for_are_read() -> None:
    both, first, second = (
        read_first_maps("flux", attention_layers=layers)[0] for layers in ([0, 1], [0], [1])
    )
    assert torch.allclose(both, (first + second) / 2, atol=1e-7)
    assert not torch.allclose(first, second, rtol=0.05)


def test_either_text_of_sd3_can_be_read_alone() -> None:
    clip, t5, both = (
        read_first_maps("sd3", attention_text=text)[0] for text in ("clip", "t5", "both")
    )
    assert torch.allclose(both[0, 0], (clip[0, 0] + t5[0, 0]) / 2, atol=1e-7)
    assert not torch.allclose(clip, t5, rtol=0.05)
