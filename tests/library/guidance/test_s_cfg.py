"""S-CFG against its equations place by place, from attention matrices written out."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from asyndm import Mask, UserError
from asyndm.guidance.base import Outputs, Rows
from asyndm.guidance.s_cfg import SCFG
from asyndm.guidance.self_attention import (
    RegionReader,
    compute_rate,
    find_blocks,
    smooth,
)
from asyndm.ladder import Level
from tests.conftest import make_unet
from tests.library.guidance.combining import (
    MASKS,
    check_cost,
    draw,
    draw_levels,
    make_moment,
    sample_latents,
)

Array = npt.NDArray[np.float64]
NEUTRAL = SCFG(min_rate=1.0, max_rate=1.0)
CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2,
}
"""Attention at 1/4 and 1/8."""
GRID = (16, 24)
ROWS = Rows(cond=slice(2, 4), uncond=slice(0, 2))


@pytest.fixture
def deep() -> UNet2DConditionModel:
    """Its text is heard and its places differ, as they do in no network that is merely drawn."""
    unet = make_unet(**CONFIG)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                weight.mul_(8)
    return unet


def run(unet: UNet2DConditionModel, rows: slice = slice(None)) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, 4, *GRID), generator=generator)
    text = 2 * torch.randn((4, 9, 16), generator=generator)
    with torch.no_grad():
        unet(x[rows].to(unet.dtype), 500, encoder_hidden_states=text[rows].to(unet.dtype))


def read(
    unet: UNet2DConditionModel, exact_powers: bool = False, image: int | None = None
) -> RegionReader:
    """After an evaluation of both images, or of one alone."""
    reader = RegionReader(find_blocks(unet), exact_powers)
    with reader:
        reader.begin(ROWS if image is None else Rows(slice(1, 2), slice(0, 1)), GRID)
        run(unet, slice(image, None, 1 if image is None else 2))
        reader.end()
        kept = dict(reader._sums)
    reader._sums = kept  # leaving it drops them
    return reader


def record(unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch) -> list[list[Array]]:
    """The matrices of an evaluation by diffusers' own arithmetic, (4, P, K), mean over heads: those
    to the picture and to text by turns, of each layer."""
    made: list[list[Array]] = []
    kept = unet.attn_processors
    unet.set_attn_processor(AttnProcessor())
    for name, layer in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):

            def keep(
                *args: Any, layer: Any = layer, stock: Any = layer.get_attention_scores
            ) -> Any:
                scores = stock(*args)
                split = scores.unflatten(0, (-1, layer.heads)).double().mean(1).numpy()
                if not layer.is_cross_attention:
                    made.append([])
                made[-1].append(split)
                return scores

            monkeypatch.setattr(layer, "get_attention_scores", keep)
    run(unet)
    unet.set_attn_processor(kept)
    return made


def blur(picture: Array) -> Array:
    """3x3, reflected, by the plain formula."""
    height, width = picture.shape
    out = np.zeros_like(picture)
    total = sum(math.exp(-(a * a + b * b)) for a in (-1, 0, 1) for b in (-1, 0, 1))
    for i in range(height):
        for j in range(width):
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    y = height - 2 if i + a == height else abs(i + a)
                    x = width - 2 if j + b == width else abs(j + b)
                    out[i, j] += math.exp(-(a * a + b * b)) / total * picture[y, x]
    return out


def make_map(own: Array, cross: Array, exact_powers: bool) -> Array:
    """(P, T), of one image and layer."""
    square = own @ own
    third = square @ own
    mean = own + square + third + third @ own if exact_powers else own + 3 * square
    return mean @ cross / 4


def find_slowly(
    layers: list[list[Array]], exact_powers: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Regions and foreground, (2, 4, 6) each."""
    height, width = GRID[0] // 4, GRID[1] // 4
    regions = np.zeros((2, height, width), dtype=np.int64)
    foreground = np.zeros((2, height, width), dtype=np.bool_)
    for image in range(2):
        sums: Array = np.zeros((9, height, width))
        sides: Array = np.zeros((2, height, width))
        for own, cross in layers:
            scale = 1 if own.shape[1] == height * width else 2
            for row in (image, 2 + image):
                found = make_map(own[row], cross[row], exact_powers)
                pictures = found.T.reshape(9, height // scale, width // scale)
                large = torch.nn.functional.interpolate(
                    torch.tensor(pictures[None]), scale_factor=float(scale), mode="bilinear"
                )
                smoothed = [blur(each) for each in large[0].numpy()]
                if row == image:
                    for side, each in enumerate((smoothed[0], sum(smoothed[1:]))):
                        sides[side] += each / np.mean(each)
                else:
                    for token, each in enumerate(smoothed):
                        sums[token] += each / (each.mean() + 1e-8)
        regions[image] = sums.argmax(0)
        foreground[image] = sides[1] > sides[0]
    return regions, foreground


def compute_slowly(n: Array, regions: Array, foreground: Array) -> Array:
    """The rate of each pixel of one image."""
    by_region: dict[int, list[Any]] = defaultdict(list)
    front: list[Any] = []
    for i, j in np.ndindex(n.shape):
        by_region[int(regions[i // 4, j // 4])].append(n[i, j])
        if foreground[i // 4, j // 4]:
            front.append(n[i, j])
    rate = np.zeros_like(n)
    for i, j in np.ndindex(n.shape):
        rate[i, j] = np.mean(front) / np.mean(by_region[int(regions[i // 4, j // 4])])
    return rate


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_at_a_rate_of_1_it_is_cfg(pipe: Any, mask: Mask, eta: float) -> None:
    latents, records = sample_latents(pipe, NEUTRAL, mask=mask, eta=eta)
    assert torch.equal(latents, sample_latents(pipe, mask=mask, eta=eta)[0])
    check_cost(NEUTRAL, records)
    guided, records = sample_latents(pipe, SCFG(), mask=mask, eta=eta)
    assert not torch.equal(guided, latents)
    check_cost(SCFG(), records)


@pytest.mark.parametrize("exact_powers", [False, True])
def test_it_is_its_equation_written_out(
    deep: UNet2DConditionModel, exact_powers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = read(deep, exact_powers)
    layers = record(deep, monkeypatch)
    assert {own.shape[1] for own, _ in layers} == {24, 6}
    regions, foreground = find_slowly(layers, exact_powers)
    assert np.array_equal(reader.find_regions().numpy(), regions)
    assert np.array_equal(reader.find_foreground().numpy(), foreground)
    assert len(np.unique(regions)) > 3 and 0.1 < foreground.mean() < 0.9

    x, u, c = draw((2, 4, *GRID), 3)
    level, _ = draw_levels((2, 1, *GRID), flow=False)
    moment = make_moment(level, probe=reader, guidance_scale=6.0)
    found = SCFG(max_rate=2.0).combine(Outputs(u + 6 * (c - u), c, u, x=x), moment).output
    for image in range(2):
        ratio = (level.sigma / level.alpha)[image, 0].numpy()
        n = ratio * np.linalg.norm((c - u)[image].numpy(), axis=0)
        rate = compute_slowly(n, regions[image], foreground[image]).clip(0.8, 2.0).clip(max=15 / 6)
        expected = u[image] + 6 * torch.tensor(blur(rate)) * (c - u)[image]
        torch.testing.assert_close(found[image], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_at_one_level_for_all_both_spaces_are_the_same(
    deep: UNet2DConditionModel, prediction_type: str
) -> None:
    reader = read(deep)
    u, c = draw((2, 4, *GRID), 2)
    outputs = Outputs(u + 5 * (c - u), c, u)
    own, _ = draw_levels((2, 1, *GRID), flow=False)
    alike = Level(*(each[..., :1, :1] for each in own))

    def compare(level: Level) -> bool:
        moment = make_moment(level, prediction_type=prediction_type, probe=reader)
        a, b = (SCFG(space=s).combine(outputs, moment).output for s in ("x0", "epsilon"))
        return torch.allclose(a, b, rtol=1e-12, atol=1e-12)

    assert compare(alike)
    # What predicts x0 itself has norms of x0 in its outputs.
    assert compare(own) == (prediction_type == "sample")


def test_x0_takes_no_region_for_weak_that_is_merely_behind() -> None:
    """Two regions whose x₀ differ alike, at two levels."""
    regions = torch.tensor([[[0, 1]]])
    alpha = torch.tensor([0.3, 0.9]).double().repeat_interleave(4).expand(1, 1, 4, 8)
    level = Level(alpha, (1 - alpha**2).sqrt())
    difference = (level.alpha / level.sigma).expand(1, 4, 4, 8)
    reader = RegionReader({4: []})
    reader._sums = {
        "cond": torch.nn.functional.one_hot(regions).movedim(-1, 1).double(),
        "uncond": torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]),
    }
    u = torch.zeros_like(difference)
    outputs = Outputs(5 * difference, difference, u)
    moment = make_moment(level, probe=reader)
    assert torch.allclose(SCFG().combine(outputs, moment).output, outputs.guided)
    assert not torch.allclose(SCFG(space="epsilon").combine(outputs, moment).output, outputs.guided)


def test_a_rate_is_1_without_foreground_and_where_nothing_differs() -> None:
    regions, inside = torch.tensor([[[0, 1]]] * 2), torch.tensor([[[False, False]], [[True, True]]])
    norm: Tensor = torch.ones(2, 1, 4, 8)
    norm[1, ..., 4:] = 0
    rate = compute_rate(norm, regions, inside, 9, 4)
    assert bool((rate[0] == 1).all()) and bool((rate[1, ..., 4:] == 1).all())
    assert bool((rate[1, ..., :4] == 0.5).all())


@pytest.mark.parametrize("shape", [(5, 7), (1, 4), (2, 2)])
def test_smoothing_keeps_a_constant(shape: tuple[int, int]) -> None:
    assert torch.allclose(smooth(torch.ones(2, 3, *shape)), torch.tensor(1.0))
    assert not smooth(torch.zeros(1, 1, *shape)).any()


def test_fused_projections_are_read_as_well(deep: UNet2DConditionModel) -> None:
    before = read(deep.double())
    deep.fuse_qkv_projections()
    try:
        after = read(deep)
    finally:
        deep.unfuse_qkv_projections()
    for name, sums in before._sums.items():
        torch.testing.assert_close(after._sums[name], sums, rtol=1e-4, atol=1e-5)


def test_pictures_need_not_be_square(pipe: Any) -> None:
    latents, _ = sample_latents(pipe, SCFG(), height=40, width=24)
    assert latents.shape[-2:] == (20, 12) and bool(torch.isfinite(latents).all())


def test_images_together_are_as_each_alone(deep: UNet2DConditionModel) -> None:
    deep.double()  # for attention as sharp as this raises what rounding leaves
    together = read(deep)
    for image in (0, 1):
        alone = read(deep, image=image)
        for name, sums in together._sums.items():
            own = sums[image : image + 1]
            torch.testing.assert_close(alone._sums[name], own, rtol=1e-4, atol=1e-5)


def test_no_hook_is_left_behind_by_an_exception(pipe: Any) -> None:
    def fail(record: object) -> None:
        raise RuntimeError("stop")

    def count() -> int:
        return sum(len(each._forward_hooks) for each in pipe.unet.modules())

    before = count()
    with pytest.raises(RuntimeError, match="stop"):
        sample_latents(pipe, SCFG(), callback=fail)
    assert count() == before


def test_the_coarsest_layers_are_read_where_there_are_none_of_its_own() -> None:
    shallow = make_unet(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    assert {factor: len(blocks) for factor, blocks in find_blocks(shallow).items()} == {2: 4}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"guidance\.space must be one of x0, epsilon, got 'v'"):
        SCFG(space="v")
    with pytest.raises(UserError, match=r"guidance\.max_rate must be .* at least 0\.8, got 0\.5"):
        SCFG(max_rate=0.5)
    plain = make_unet(
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
    )
    with pytest.raises(UserError, match="guidance=s_cfg: the network has no block that attends"):
        SCFG().make_probe(plain, ())
    reader = RegionReader(find_blocks(make_unet()))
    with reader, pytest.raises(UserError, match="attention could not be read"):
        reader.begin(ROWS, GRID)
        reader.end()


def test_its_label_tells_what_is_not_the_usual() -> None:
    assert SCFG(7.5).label == "s_cfg 7.5"
    assert SCFG(7.5, space="epsilon").label == "s_cfg space=epsilon 7.5"
