from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyndm.errors import UserError
from asyndm.mask_images import read_grey
from asyndm.masks import (
    DynamicMask,
    ExternalMask,
    GlobalMask,
    LayoutMask,
    Mask,
    NoMask,
    StaticMask,
    ThingsMask,
)
from asyndm.regions import binarise
from asyndm.scene import Scene
from asyndm.subjects import Subject


def refuse_maps() -> torch.Tensor:
    raise AssertionError("this mask needs no rehearsal")


def make_scene(rows: list[list[float]], size: tuple[int, int] = (8, 12)) -> Scene:
    return Scene(torch.tensor(rows, dtype=torch.float64), size)


TWO = make_scene([[0.3, 0.9], [0.5, -1.0]])
NAMED = replace(
    TWO, subjects=[[Subject("Rabbit"), Subject("ball", occurrence=2)], [Subject("fox")]]
)
OTHERS = ThingsMask, ExternalMask, LayoutMask


class SteadyMask(DynamicMask):
    """A mask of one's own that says nothing of itself."""


class Sometimes(NoMask):
    """One that is made from another, and is not it."""

    label = "AsynDM_sometimes"


@dataclass(frozen=True, slots=True)
class SlottedMask(GlobalMask):
    """One whose class is made twice."""

    uniform = True


def test_a_mask_says_what_it_is() -> None:
    said = [
        (kind.name, kind.label, kind.bends, kind.uniform, kind.rehearses)
        for kind in (NoMask, GlobalMask, DynamicMask, StaticMask, *OTHERS)
    ]
    assert said == [
        ("none", "DM", False, True, False),
        ("global", "DM_concave", True, True, False),
        ("dynamic", "AsynDM", True, False, False),
        ("static", "AsynDM_static", True, False, True),
        ("things", "AsynDM_things", True, False, True),
        ("external", "AsynDM_external", True, False, False),
        ("layout", "AsynDM_layout", True, False, False),
    ]
    masks = (DynamicMask(), StaticMask(), ThingsMask(), ThingsMask(rehearsal_steps=8))
    assert [mask.count_rehearsed(20) for mask in masks] == [0, 20, 20, 8]
    assert ThingsMask(rehearsal_steps=8).count_rehearsed(5) == 5
    assert [DynamicMask().reads_attention, StaticMask().reads_attention] == [True, True]
    assert not any(mask.reads_attention for mask in (NoMask(), GlobalMask(), ExternalMask("a.png")))


def test_a_mask_of_ones_own_has_one_name_and_is_not_what_it_is_made_from() -> None:
    assert SteadyMask.name == SteadyMask.label == "steady" and SteadyMask.follows_attention
    assert Sometimes.name == "sometimes" and Sometimes.label == "AsynDM_sometimes"
    assert Sometimes.bends and not Sometimes.uniform
    assert SlottedMask.label == "slotted" and SlottedMask.uniform and SlottedMask().bends


def test_what_choices_say_of_themselves_is_read_without_torch() -> None:
    code = (
        "import sys; from asyndm import curves, guidance, masks; "
        "masks.StaticMask().rehearses, masks.ExternalMask('a.png').label, curves.Quadratic().label;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_none_and_global() -> None:
    w, _ = TWO.combine(NoMask().initial(TWO, refuse_maps))
    assert (w == 0).all() and w.shape == (2, 8, 12)
    w, omega = TWO.combine(GlobalMask().initial(TWO, refuse_maps))
    assert (w == 1).all() and (omega[0] == 0.9).all() and (omega[1] == 0.5).all()


def test_dynamic_starts_with_the_largest_concavity_and_then_follows_the_maps() -> None:
    mask = DynamicMask()
    weights = mask.initial(TWO, refuse_maps)
    assert (weights[0, 1] == 1).all() and (weights[0, 0] == 0).all() and (weights[1, 0] == 1).all()
    maps = torch.zeros(2, 2, 2, 3)
    maps[0, 0, 0, 0] = maps[0, 1, 1, 2] = maps[1, 0, 0, 1] = 1
    weights = mask.follow(weights, maps, TWO)
    assert weights.sum() == 3 * 16
    assert (weights[0, 0, :4, :4] == 1).all() and (weights[0, 1, 4:, 8:] == 1).all()
    assert (weights[1, 0, :4, 4:8] == 1).all() and (weights[1, 1] == 0).all()


def test_static_binarises_the_rehearsed_mean_once() -> None:
    maps = torch.rand(2, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    mask = StaticMask(1.1)
    weights = mask.initial(TWO, lambda: maps)
    assert torch.equal(weights, binarise(maps, 1.1, TWO)) and 0 < weights.mean() < 1
    assert mask.follow(weights, None, TWO) is weights


@pytest.mark.parametrize("kind", [DynamicMask, StaticMask])
def test_masks_of_attention_are_grown_by_cells_of_the_map(kind: type[StaticMask]) -> None:
    maps = torch.zeros(2, 2, 4, 6)
    maps[0, 0, 1, 1] = maps[1, 0, 3, 5] = 1
    mask = kind(grow=1)
    weights = mask.follow(mask.initial(TWO, lambda: maps), maps, TWO)
    assert weights[:, 0].sum() == 4 * (9 + 4)
    assert (weights[0, 0, :6, :6] == 1).all() and (weights[1, 0, 4:, 8:] == 1).all()


def test_threshold_is_relative_to_the_mean_of_each_map() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 1, 4)
    one = make_scene([[0.5]], (1, 4))
    assert binarise(maps, 1.0, one).flatten().tolist() == [0, 0, 1, 1]
    assert binarise(maps * 1e-3, 1.5, one).flatten().tolist() == [0, 0, 0, 1]
    assert binarise(maps, 0.0, one).flatten().tolist() == [1, 1, 1, 1]


def test_overlap_goes_to_the_largest_concavity_ties_to_the_first() -> None:
    three = make_scene([[0.4, 0.7, 0.7]], (1, 4))
    places = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    weights = torch.tensor(places, dtype=torch.float64).view(1, 3, 1, 4)
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert three.remove_overlap(weights).view(3, 4).tolist() == expected
    w, omega = three.combine(weights)
    assert w.flatten().tolist() == [1, 1, 1, 0] and omega.flatten().tolist() == [0.4, 0.7, 0.7, 0]


def test_maps_that_do_not_divide_the_latents_cover_them() -> None:
    maps = torch.zeros(1, 1, 3, 2)
    maps[0, 0, 2, 1] = 1
    weights = binarise(maps, 1.0, make_scene([[0.5]], (10, 6)))
    assert (
        weights.shape == (1, 1, 10, 6) and (weights[0, 0, 8:, 4:] == 1).all() and weights.sum() == 4
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_external_files_of_any_size_are_resized_by_area(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:, 30:] = 255
    pixels[20:, :30] = 102
    Image.fromarray(pixels).convert("RGB").save(tmp_path / f"mask.{suffix}", quality=100)
    weights = ExternalMask(tmp_path / f"mask.{suffix}").initial(TWO, refuse_maps)
    w, omega = TWO.combine(weights)
    assert w.shape == (2, 8, 12) and (omega[0][w[0] > 0] == 0.9).all()
    quadrants = w[0].view(2, 4, 2, 6).mean((1, 3))
    assert torch.allclose(quadrants, torch.tensor([[0, 1], [0.4, 1]]).double(), atol=0.02)
    assert abs(float(w.mean()) - 0.6) < 0.01


def test_external_arrays_images_and_one_mask_for_each_image() -> None:
    grey = np.linspace(0, 1, 8 * 12).reshape(8, 12)
    exact = torch.from_numpy(grey)
    assert torch.equal(ExternalMask(grey).initial(TWO, refuse_maps)[0].sum(0), exact)
    assert torch.equal(
        ExternalMask([exact, 1 - exact]).initial(TWO, refuse_maps)[1].sum(0), 1 - exact
    )
    deep = Image.fromarray((grey * 65535).astype(np.uint16))
    assert torch.allclose(read_grey(deep), exact, atol=1e-4)
    real = Image.fromarray(grey.astype(np.float32))
    assert real.mode == "F" and torch.allclose(read_grey(real), exact, atol=1e-6)
    assert ExternalMask(np.ones((1, 1))).initial(TWO, refuse_maps).sum() == 2 * 8 * 12


def test_wrong_external_masks_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    damaged = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    header = whole[:11] + bytes([whole[11] ^ 1]) + whole[12:]
    huge = struct.pack(">II", 40000, 40000) + whole[24:29]
    broken = {
        "short": whole[: len(whole) // 2],
        "head": whole[:20],
        "damaged": damaged,
        "header": header,
        "huge": whole[:16] + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge)) + whole[33:],
    }
    for name, content in broken.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    wrong = {
        **{str(tmp_path / f"{name}.png"): "not a readable image" for name in broken},
        str(tmp_path / "none.png"): "there is no file",
        str(tmp_path / "text.png"): "not a readable image",
        str(tmp_path): "not a readable image",
    }
    for source, message in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            ExternalMask(source).initial(TWO, refuse_maps)
        assert "\n" not in str(caught.value)
    for array in (
        np.full((2, 2), 1.5),
        np.zeros((2, 2, 3)),
        np.array([[np.nan]]),
        np.zeros((0, 4)),
    ):
        with pytest.raises(UserError, match="values in \\[0, 1\\]"):
            ExternalMask(array).initial(TWO, refuse_maps)
    with pytest.raises(UserError, match="3 mask images were given for 2 images"):
        ExternalMask([np.ones((2, 2))] * 3).initial(TWO, refuse_maps)


def test_a_mask_for_each_of_some_subjects(tmp_path: Path) -> None:
    left = np.zeros((4, 6), np.uint8)
    left[:, :2] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    named = {"rabbit": tmp_path / "left.png", "ball#2": np.full((2, 2), 0.5)}
    mask = ExternalMask([named, np.ones((1, 1))])
    mask.check(NAMED.subjects)
    weights = mask.initial(NAMED, refuse_maps)
    assert (weights[0, 0, :, :4] == 1).all() and not weights[0, 0, :, 4:].any()
    assert (weights[0, 1] == 0.5).all() and (weights[1, 0] == 1).all() and not weights[1, 1].any()
    read = mask.select(range(1), 2).image
    assert isinstance(read, list) and len(read) == 1 and read[0]["rabbit"].shape == (4, 6)
    grown = ExternalMask([{"rabbit": left / 255}, np.eye(1)], grow=2).initial(NAMED, refuse_maps)
    assert (grown[0, 0, :, :6] == 1).all() and not grown[0, 0, :, 6:].any()
    with pytest.raises(UserError, match="'fox' is not among the subjects \\(Rabbit, ball#2\\)"):
        ExternalMask({"fox": left}).check(NAMED.subjects)
    with pytest.raises(UserError, match="1 mask images were given for 2 images"):
        ExternalMask([left]).check(NAMED.subjects)


def test_a_layout_puts_subjects_in_their_boxes() -> None:
    two = [[0, 0, 0.25, 0.5], (0.5, 0.5, 1, 1)]
    mask = LayoutMask([{"rabbit": [0.5, 0, 1, 0.25], "BALL#2": two}, {"fox": [0, 0, 1, 0.0625]}])
    mask.check(NAMED.subjects)
    weights = mask.initial(NAMED, refuse_maps)
    assert (weights[0, 0, :2, 6:] == 1).all() and weights[0, 0].sum() == 12
    assert (weights[0, 1, :4, :3] == 1).all() and (weights[0, 1, 4:, 6:] == 1).all()
    assert weights[0, 1].sum() == 36
    assert (weights[1, 0, 0] == 0.5).all() and weights[1].sum() == 6
    assert (
        LayoutMask({"fox": [0, 0, 1, 0.125]}, grow=1)
        .initial(replace(NAMED, subjects=[[Subject("fox")]] * 2), refuse_maps)
        .sum()
        == 2 * 2 * 12
    )
    (second,) = mask.select(range(1, 2), 2).boxes
    assert second == {"fox": [0, 0, 1, 0.0625]}


def test_a_layout_of_other_subjects_or_images_is_refused() -> None:
    box = [0, 0, 1, 1]
    with pytest.raises(UserError, match="'cat' is not among the subjects \\(fox\\)"):
        LayoutMask({"cat": box}).check([[Subject("fox")]])
    with pytest.raises(UserError, match="'ball' is not among the subjects"):
        LayoutMask([{"ball": box}, {"fox": box}]).check(NAMED.subjects)
    with pytest.raises(UserError, match="'fox' is not among the subjects \\(none\\)"):
        LayoutMask({"fox": box}).check([[]])
    with pytest.raises(UserError, match="2 layouts were given for 1 images"):
        LayoutMask([{"fox": box}] * 2).check([[Subject("fox")]])


WRONG_SETTINGS = {
    "grow": (-1, 0.5, True, "1"),
    "rehearsal_steps": (0, 2.5, "8"),
    "next_best": (1, None),
}


@pytest.mark.parametrize("setting", WRONG_SETTINGS)
def test_wrong_settings_are_refused(setting: str) -> None:
    kinds: list[Callable[..., Mask]] = [ThingsMask]
    if setting == "grow":
        layout = partial(LayoutMask, {"fox": [0, 0, 1, 1]})
        kinds += [DynamicMask, StaticMask, partial(ExternalMask, "a.png"), layout]
    for kind in kinds:
        for wrong in WRONG_SETTINGS[setting]:
            with pytest.raises(UserError, match=f"mask {setting} must be"):
                kind(**{setting: wrong})


@pytest.mark.parametrize("kind", [DynamicMask, StaticMask, ThingsMask])
@pytest.mark.parametrize("threshold", [-0.1, float("inf"), float("nan"), "1"])
def test_wrong_thresholds_are_refused(kind: type[DynamicMask], threshold: float) -> None:
    with pytest.raises(UserError, match="mask threshold"):
        kind(threshold)
