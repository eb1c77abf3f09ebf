"""Noise levels of training pictures: of which regions, how far apart, to which side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyndm.shapes.render import mark_objects
from experiments.training.shapes.levels import (
    DRAWS,
    PARTS,
    REACH,
    Draw,
    Part,
    draw_parts,
    draw_slow_anything,
    draw_slow_objects,
    part_blobs,
    part_each,
    part_some,
    part_spare,
)
from experiments.training.shapes.settings import Slow

COUNT = 4000


def make_regions(count: int, *things: tuple[int, int]) -> Tensor:
    """Pictures whose things each cover one pixel wholly, so that 3x3 are theirs."""
    regions = torch.zeros(count, 3, 16, 16)
    for k, (y, x) in enumerate(things):
        regions[:, k, y, x] = 1
    return regions


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def show_window(y: int, x: int) -> Tensor:
    """(16, 16) long, 1 in the 3x3 around a pixel."""
    window = torch.zeros(16, 16, dtype=torch.long)
    window[y - 1 : y + 2, x - 1 : x + 2] = 1
    return window


def test_every_way_that_a_recipe_can_say_is_there() -> None:
    assert set(DRAWS) == set(Slow)


@pytest.mark.parametrize("draw", DRAWS.values())
def test_plain_pictures_have_one_level_that_is_denser_where_noise_is_strong(draw: Draw) -> None:
    levels = draw(make_regions(COUNT, (4, 4)), 0.0, 1000, make_generator())
    assert (levels == levels[:, :1, :1]).all()
    assert levels.min() >= 0 and levels.max() <= 999
    # u^0.75 is below 1/2 where u is below 2^(-4/3)
    assert (levels[:, 0, 0] < 500).float().mean() == pytest.approx(2 ** (-4 / 3), abs=0.001)


def test_objects_are_slow_over_their_true_regions() -> None:
    levels = draw_slow_objects(make_regions(COUNT, (4, 4)), 1.0, 1000, make_generator())
    on, off = levels[:, 4, 4], levels[:, 15, 15]
    wanted = torch.where(show_window(4, 4) > 0, on[:, None, None], off[:, None, None])
    assert torch.equal(levels, wanted)
    assert levels.min() >= 0 and levels.max() <= 999
    free = (on > 350) & (on < 899)
    gap = (off - on)[free]
    assert gap.min() >= -350 and gap.max() <= 100
    assert (gap < 0).float().mean() == pytest.approx(350 / 450, abs=0.03)
    some = draw_slow_objects(make_regions(COUNT, (4, 4)), 0.4, 1000, make_generator())
    assert (some[:, 4, 4] != some[:, 15, 15]).float().mean() == pytest.approx(0.4, abs=0.03)


def test_the_levels_of_the_checkpoints_that_ship_are_drawn_as_they_were() -> None:
    levels = draw_slow_objects(make_regions(4, (4, 4)), 1.0, 1000, make_generator(3))
    assert levels[:, 0, 0].tolist() == [0, 58, 654, 796]
    assert levels[:, 4, 4].tolist() == [5, 381, 657, 811]


def test_any_regions_differ_to_both_sides_alike() -> None:
    regions = make_regions(COUNT, (4, 4), (11, 11))
    levels = draw_slow_anything(regions, 1.0, 1000, make_generator())
    assert levels.min() >= 0 and levels.max() <= 999
    spread = levels.flatten(1).amax(1) - levels.flatten(1).amin(1)
    assert 300 < spread.max() <= 2 * REACH
    gap = (levels[:, 4, 4] - levels[:, 0, 15]).float()
    gap = gap[gap != 0]
    error = gap.std() / len(gap) ** 0.5
    assert abs(gap.mean()) < 3 * error
    assert (gap > 0).float().mean() == pytest.approx(0.5, abs=1.5 / len(gap) ** 0.5)
    some = draw_slow_anything(regions, 0.4, 1000, make_generator())
    has_several = some.flatten(1).amax(1) != some.flatten(1).amin(1)
    assert has_several.float().mean() == pytest.approx(0.4, abs=0.03)


def test_each_way_of_parting_is_as_often_as_the_others() -> None:
    regions = make_regions(COUNT, (4, 4), (11, 11))
    drawn = draw_parts(regions, make_generator())
    first, second = show_window(4, 4), show_window(11, 11)

    def share(parted: Tensor) -> float:
        return float((drawn == parted).flatten(1).all(1).float().mean())

    assert share(first + 2 * second) == pytest.approx(1 / len(PARTS), abs=0.03)
    assert share(first) + share(second) == pytest.approx(1 / len(PARTS), abs=0.03)
    has_both = ((drawn == 1) | (first + second == 0)).flatten(1).all(1)
    assert has_both.float().mean() == pytest.approx(1 / len(PARTS), abs=0.05)


def test_blobs_are_wherever_the_objects_are_and_of_their_size() -> None:
    here = part_blobs(make_regions(COUNT, (4, 4)), make_generator())
    there = part_blobs(make_regions(COUNT, (11, 11), (2, 9)), make_generator())
    assert torch.equal(here, there) and set(here.unique().tolist()) == {0, 1}
    # in the middle as often as anywhere that is not at the edge
    shares = (here == 1).float().mean(0)
    assert shares[4:12, 4:12].std() < 0.02 and shares[0, 0] < shares[8, 8]
    sizes = (here == 1).float().sum((1, 2))
    # a disc of radius 2 and half a pixel with the pixels around it, at a corner a quarter of it
    assert sizes.min() >= 4 and sizes.max() <= 3 * 9**2


@pytest.mark.parametrize("many", [1, 2, 3])
def test_of_several_things_some_are_slow_and_some_are_not(many: int) -> None:
    places = ((4, 4), (11, 11), (3, 12))[:many]
    parted = part_some(make_regions(COUNT, *places), make_generator())
    kept = torch.stack([parted[:, y, x] for y, x in places], 1)
    windows = torch.stack([show_window(y, x) for y, x in places])
    assert torch.equal(parted, torch.einsum("bk,khw->bhw", kept, windows))
    assert kept.sum(1).unique().tolist() == (list(range(1, many)) or [0])
    assert torch.allclose(kept.float().mean(0), torch.tensor(0.5 * (many > 1)), atol=0.03)


def test_spare_regions_are_beside_all_objects() -> None:
    regions = make_regions(COUNT, (4, 4), (11, 11))
    parted = part_spare(regions, make_generator())
    on = mark_objects(regions)
    assert (parted[on] == 1).all()
    assert torch.equal(parted == 1, on | (part_blobs(regions, make_generator()) == 1))


def test_each_thing_has_a_region_and_the_nearer_one_what_two_share() -> None:
    regions = make_regions(1, (4, 4), (4, 6))
    regions[0, 1] *= 0.5
    parted = part_each(regions, make_generator())[0]
    assert (parted[3:6, 3:6] == 1).all() and (parted[3:6, 6:8] == 2).all()
    assert (parted > 0).sum() == 15
    levels = draw_slow_anything(regions.expand(COUNT, -1, -1, -1), 1.0, 1000, make_generator())
    assert len(levels[0].unique()) <= 3


@pytest.mark.parametrize("part", PARTS)
def test_regions_are_numbered_as_the_levels_are(part: Part) -> None:
    parted = part(make_regions(64, (4, 4), (11, 11), (3, 12)), make_generator())
    assert parted.shape == (64, 16, 16) and parted.dtype == torch.long
    assert parted.min() >= 0 and parted.max() <= 3
