"""Regions against a labelling by flood, and who gets which."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asyndm.masks import ThingsMask
from asyndm.regions import choose_things, cover, grow, label_regions
from asyndm.scene import Scene
from asyndm.subjects import Subject

Cells = frozenset[tuple[int, int]]


def flood(chosen: Tensor) -> list[Cells]:
    """The regions of a map (h, w), each found from one of its cells by walking."""
    left = {(int(y), int(x)) for y, x in chosen.nonzero()}
    found = []
    while left:
        region, edge = set[tuple[int, int]](), {left.pop()}
        while edge:
            region |= edge
            edge = {(y + i, x + j) for y, x in edge for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= edge
        found.append(frozenset(region))
    return found


def draw_maps(*shape: int, seed: int = 0) -> Tensor:
    """Smooth maps with a few hills."""
    rough = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) ** 6
    return F.avg_pool2d(rough, 3, 1, 1)


def make_scene(counts: list[list[int]], size: tuple[int, int]) -> Scene:
    concavity = torch.full((len(counts), max(map(len, counts))), -1.0, dtype=torch.float64)
    for row, numbers in zip(concavity, counts, strict=True):
        row[: len(numbers)] = 0.5
    subjects = [[Subject(f"w{i}", count=n) for i, n in enumerate(row)] for row in counts]
    return Scene(concavity, size, subjects)


def draw_serpent() -> Tensor:
    """(3, 10): one region whose ends are further apart than half of all cells."""
    serpent = torch.ones(3, 10, dtype=torch.bool)
    serpent[1, :9] = False
    return serpent


def test_regions_are_those_of_a_flood() -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = ((1, 1), (1, 9), (5, 7), (12, 12), (9, 16))
    drawn = [torch.rand(size, generator=generator) < 0.4 for size in sizes]
    for chosen in (*drawn, draw_serpent(), draw_serpent().T.flip(0)):
        labels = label_regions(chosen[None, None])[0, 0]
        assert ((labels > 0) == chosen).all()
        numbers = [{int(labels[cell]) for cell in region} for region in flood(chosen)]
        assert all(len(each) == 1 for each in numbers)
        assert len(set().union(*numbers)) == len(numbers)


def test_a_subject_has_its_count_of_regions_with_most_attention() -> None:
    maps, counts = draw_maps(3, 3, 16, 16), [[1, 2, 3], [2, 1], [1, 1, 1]]
    scene = make_scene(counts, (16, 16))
    kept = choose_things(maps, scene, 2.0, 1, next_best=False)
    relative = maps.double() / maps.double().mean((-2, -1), keepdim=True)
    relative[1, 2] = 0  # there is no third subject
    more = 0
    for image, numbers in enumerate(counts):
        for subject, number in enumerate(numbers):
            own = relative[image, subject]
            chosen = (own >= 2) & (own == relative[image].amax(0))
            sums = {region: sum(float(own[c]) for c in region) for region in flood(chosen)}
            best = sorted(sums, key=lambda region: -sums[region])[:number]
            assert set(flood(kept[image, subject])) == set(best)
            more += len(sums) > number
    assert more > 3 and not kept[1, 2].any()


def make_hill(middle: tuple[int, int], height: float, radius: float) -> Tensor:
    """(12, 12), falling from the middle to nothing at the radius."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    distance = ((y - middle[0]) ** 2 + (x - middle[1]) ** 2).sqrt()
    return height * (1 - distance / radius).clamp(min=0)


STRONG, WEAK = (3, 3), (9, 8)
"""Two places; all subjects look most at the first."""


@pytest.mark.parametrize("radius", [3.0, 4.5], ids=["beaten everywhere", "with a rim of its own"])
def test_who_is_weaker_at_a_place_takes_the_next_best(radius: float) -> None:
    first = make_hill(STRONG, 1.0, 3.0)
    second = make_hill(STRONG, 1.0, radius) + make_hill(WEAK, 0.5, 2.5)
    maps = torch.stack([first, second])[None]
    scene = make_scene([[1, 1]], (12, 12))
    shared = choose_things(maps, scene, 1.5, 1, next_best=False)[0, 1]
    kept = choose_things(maps, scene, 1.5, 1, next_best=True)[0]
    assert kept[0, 3, 3] and kept[0].sum() > 8
    assert kept[1, 9, 8] and len(flood(kept[1])) == 1 and not kept[1, :7].any()
    assert torch.equal(shared, kept[1]) == (radius == 3.0), "the rim is stronger than that place"


def test_three_that_look_at_one_place_go_apart() -> None:
    hills = make_hill(STRONG, 1.0, 3.0), make_hill(WEAK, 0.5, 2.5), make_hill((2, 9), 0.3, 2.5)
    maps = torch.stack([sum(hills, torch.zeros(12, 12)) + 0.01 * i for i in range(3)])[None]
    kept = choose_things(maps, make_scene([[1, 1, 1]], (12, 12)), 2.0, 1, next_best=True)[0]
    owners = [kept[:, y, x].nonzero().flatten().tolist() for y, x in (STRONG, WEAK, (2, 9))]
    assert owners == [[0], [1], [2]]
    alike = torch.stack([hills[0]] * 3)[None]
    kept = choose_things(alike, make_scene([[1, 1, 1]], (12, 12)), 2.0, 1, next_best=True)[0]
    assert kept.flatten(1).any(1).tolist() == [True, False, False], "there is no other place"


def test_where_nothing_is_shared_the_next_best_changes_nothing() -> None:
    maps = torch.stack([make_hill(STRONG, 1.0, 4.0), make_hill(WEAK, 0.2, 4.0)])[None]
    scene = make_scene([[1, 1]], (24, 24))
    first, second = (ThingsMask(next_best=b).initial(scene, lambda: maps) for b in (False, True))
    assert torch.equal(first, second) and first.flatten(2).any(-1).all()


def test_an_image_has_the_same_regions_in_any_company() -> None:
    maps, counts = draw_maps(6, 3, 16, 16, seed=3), [[1, 2, 3], [1, 1], [2], [1], [1, 1, 1], [3, 1]]
    whole = choose_things(maps, make_scene(counts, (16, 16)), 2.0, 1, next_best=True)
    for i, numbers in enumerate(counts):
        own = make_scene([numbers], (16, 16))
        alone = choose_things(maps[i : i + 1, : len(numbers)], own, 2.0, 1, next_best=True)
        assert torch.equal(alone[0], whole[i, : len(numbers)])
        assert not whole[i, len(numbers) :].any()


def test_what_is_grown_reaches_so_many_cells_further() -> None:
    weights = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    weights[0, 0, 3, 1] = 0.5
    assert grow(weights, 0) is weights
    grown = grow(weights, 2)[0, 0]
    assert (grown[1:6, :4] == 0.5).all() and grown.sum() == 0.5 * 20


def test_a_box_covers_its_share_of_each_cell() -> None:
    whole = cover([(0, 0, 1, 1)], (3, 5))
    assert torch.equal(whole, torch.ones(3, 5, dtype=torch.float64))
    part = cover([(0.25, 0.5, 0.625, 1.0)], (2, 4))
    assert part.tolist() == [[0, 0, 0, 0], [0, 1, 0.5, 0]]
    both = cover([(0.25, 0.5, 0.625, 1.0), (0.0, 0.0, 0.5, 0.75)], (2, 4))
    assert both.tolist() == [[1, 1, 0, 0], [0.5, 1, 0.5, 0]]
