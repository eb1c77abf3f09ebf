"""Drawing the world: specs to anti-aliased 64x64 pictures, vectorised over the batch.

Positions come from rejection sampling: a batch of candidate layouts is drawn for every spec and the
first that keeps objects apart, inside the picture, in the wanted relation and at the wanted place
is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.shapes.world import COLOURS, PLAIN, SHAPES, TEXTURES, Spec, Thing

SIZE = 64
"""Side of a picture in pixels."""
PERIOD = 16
"""Period of every texture in pixels."""
LIGHT, DARK = 0.92, 0.58
"""The two grey levels of a texture."""
SKY, GRASS = (0.74, 0.87, 0.98), (0.60, 0.76, 0.52)
MOST = 3
"""Largest number of objects in a picture."""
_CANDIDATES = 256
"""Layouts that are drawn for each picture at a time."""
_GAP = 3.0
"""Pixels between two objects."""
_RADIUS = {1: (9.0, 13.0), 2: (9.0, 12.0), 3: (7.8, 9.4)}
"""Smallest and largest radius in pixels, by the number of objects."""
_EXTENT = {"circle": 1.0, "square": 1.12, "triangle": 1.32, "star": 1.3}


@dataclass(frozen=True)
class Picture:
    """A batch of drawn specs: `images` (B, 3, 64, 64) in [0, 1]; `regions` (B, 3, 64, 64), the
    coverage of each object in the order of the prompt (an empty map where there are fewer);
    `owners`, per image the index of the thing each object belongs to."""

    images: Tensor
    regions: Tensor
    owners: list[list[int]]

    def gather_things(self) -> Tensor:
        """(B, 3, 64, 64), the coverage of each thing: of all objects that belong to it."""
        things = torch.zeros_like(self.regions)
        for i, owners in enumerate(self.owners):
            for j, owner in enumerate(owners):
                things[i, owner] += self.regions[i, j]
        return things.clamp(0, 1)


def mark_objects(coverage: Tensor) -> Tensor:
    """Where the objects are to networks that are trained on mixed noise levels: in the cells of
    which a thing covers more than a quarter, and in all that touch such a cell.

    Args:
        coverage: (B, K, h, w) in [0, 1], the share of each cell that each thing covers.

    Returns:
        (B, h, w) bool.
    """
    return F.max_pool2d(coverage.amax(1, keepdim=True), 3, 1, 1)[:, 0] > 0.25


def compute_signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance in pixels to the outline, negative inside; y points down. Sizes make the areas
    alike."""
    if shape == "circle":
        return (x * x + y * y).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    if shape == "triangle":
        reach = 0.66 * radius
        slope = math.cos(math.pi / 6) * x.abs() - 0.5 * y
        return torch.maximum(y, slope) - reach
    if shape == "star":
        return _compute_star_distance(x, y, 1.3 * radius)
    raise ValueError(f"shape={shape!r}: choose from {', '.join(SHAPES)}")


def _compute_star_distance(x: Tensor, y: Tensor, outer: Tensor, inner: float = 0.4) -> Tensor:
    """Five points, one up: fold the plane into a half sector, then the distance to its one edge."""
    sector = math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y), 2 * sector)
    angle = torch.minimum(angle, 2 * sector - angle)
    length = (x * x + y * y).sqrt()
    px, py = length * torch.cos(angle), length * torch.sin(angle)
    ex, ey = inner * math.cos(sector) - 1.0, inner * math.sin(sector)
    norm = math.hypot(ex, ey)
    return ((px - outer) * -ey + py * ex) / -norm


def draw_outline(shape: str, size: int, scale: float) -> Tensor:
    """The outline of a shape, centred on its centroid with area `scale`² pixels, on a (size, size)
    grid in {0, 1}."""
    grid = torch.arange(192, dtype=torch.float64) - 95.5
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    inside = compute_signed_distance(shape, x, y, torch.tensor(40.0, dtype=torch.float64)) < 0
    area = inside.sum()
    cy, cx = y[inside].mean(), x[inside].mean()
    step = area.sqrt() / scale
    out = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * step
    oy, ox = torch.meshgrid(out + cy, out + cx, indexing="ij")
    return (
        compute_signed_distance(shape, ox, oy, torch.tensor(40.0, dtype=torch.float64)) < 0
    ).float()


def draw_texture(name: str, phase_x: Tensor, phase_y: Tensor, turned: Tensor) -> Tensor:
    """Grey levels (B, 64, 64) of a texture; phases (B,) in pixels, `turned` (B,) makes stripes
    horizontal."""
    grid = torch.arange(SIZE, dtype=torch.float32)
    half = PERIOD / 2
    if name == "checkered":
        half *= 1.5
    u = torch.remainder(grid + phase_x[:, None], 2 * half)[:, None, :]
    v = torch.remainder(grid + phase_y[:, None], 2 * half)[:, :, None]
    tone_u, tone_v = (_draw_wave(t, half) for t in (u, v))
    if name == "striped":
        tone = torch.where(
            turned[:, None, None], tone_v.expand(-1, -1, SIZE), tone_u.expand(-1, SIZE, -1)
        )
    elif name == "checkered":
        tone = tone_u * tone_v
    elif name == "dotted":
        distance = ((u - half) ** 2 + (v - half) ** 2).sqrt()
        tone = -2 * (4.2 - distance).clamp(0, 1) + 1
    else:
        raise ValueError(f"texture={name!r}: choose from {', '.join(TEXTURES)}")
    return (LIGHT + DARK) / 2 + (LIGHT - DARK) / 2 * tone


def _draw_wave(position: Tensor, half: float) -> Tensor:
    """A square wave in [-1, 1] with edges one pixel wide."""
    return ((half / 2 - (position - half).abs()) * 2).clamp(-1, 1)


def _make_grid() -> tuple[Tensor, Tensor]:
    grid = torch.arange(SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    return x, y


def _draw_backgrounds(specs: Sequence[Spec], horizon: Tensor, generator: torch.Generator) -> Tensor:
    count = len(specs)
    phase = torch.randint(0, 3 * PERIOD, (2, count), generator=generator).float()
    turned = torch.rand(count, generator=generator) < 0.5
    shades = list(PLAIN.values())
    pick = torch.randint(0, len(shades), (count,), generator=generator).tolist()
    out = torch.empty(count, 3, SIZE, SIZE)
    for i, spec in enumerate(specs):
        if spec.background == "scene":
            below = (_make_grid()[1] - horizon[i] + 0.5).clamp(0, 1)
            sky, grass = (torch.tensor(c)[:, None, None] for c in (SKY, GRASS))
            out[i] = sky + (grass - sky) * below
        elif spec.background in TEXTURES:
            out[i] = draw_texture(
                spec.background, phase[0, i : i + 1], phase[1, i : i + 1], turned[i : i + 1]
            )
        else:
            out[i] = PLAIN.get(spec.background, shades[pick[i]])
    return out


def _check_layouts(
    specs: Sequence[Spec],
    things: list[list[Thing]],
    centre: Tensor,
    radius: Tensor,
    horizon: Tensor,
) -> Tensor:
    """Which candidate layouts (B, K) are lawful. `centre` (B, K, 3, 2), `radius` (B, K, 3) the
    extents."""
    ok = torch.ones(centre.shape[:2], dtype=torch.bool)
    for i, spec in enumerate(specs):
        n = len(things[i])
        c, r = centre[i, :, :n], radius[i, :, :n]
        fine = ((c - r[..., None] >= 2) & (c + r[..., None] <= SIZE - 2)).all(-1).all(-1)
        for a in range(n):
            for b in range(a):
                fine &= (c[:, a] - c[:, b]).norm(dim=-1) >= r[:, a] + r[:, b] + _GAP
            y, line = c[:, a, 1], horizon[i]
            if things[i][a].place == "sky":
                fine &= y + r[:, a] <= line - 1
            elif things[i][a].place == "grass":
                fine &= y - r[:, a] >= line + 1
        if spec.relation:
            along, across = (1, 0) if spec.relation in ("above", "below") else (0, 1)
            sign = 1.0 if spec.relation in ("above", "left of") else -1.0
            shift = c[:, 1] - c[:, 0]
            fine &= (sign * shift[:, along] >= 14) & (
                shift[:, across].abs() <= 0.6 * sign * shift[:, along]
            )
        ok[i] = fine
    return ok


def _draw_layouts(
    specs: Sequence[Spec], things: list[list[Thing]], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (B, 3, 2) as (x, y), radii (B, 3) and horizons (B,), all in pixels."""
    count = len(specs)
    few = torch.tensor([_RADIUS[len(t)] for t in things])
    # an object of a scene has to fit between the horizon and the edge of the picture
    small = torch.tensor([8.5 if spec.background == "scene" else 99.0 for spec in specs])
    low, high = torch.minimum(few[:, 0], small), torch.minimum(few[:, 1], small + 1.5)
    stretch = torch.ones(count, MOST)
    for i, objects in enumerate(things):
        for j, thing in enumerate(objects):
            stretch[i, j] = _EXTENT[thing.shape]
    centre, radius = torch.empty(count, MOST, 2), torch.empty(count, MOST)
    horizon = torch.empty(count)
    todo = torch.arange(count)
    for _ in range(2000):
        shape = (len(todo), _CANDIDATES)
        line = SIZE * (0.42 + 0.16 * torch.rand(len(todo), generator=generator))
        c = SIZE * torch.rand(*shape, MOST, 2, generator=generator)
        lo, hi = low[todo, None, None], high[todo, None, None]
        r = lo + (hi - lo) * torch.rand(*shape, MOST, generator=generator)
        index = todo.tolist()
        ok = _check_layouts(
            [specs[i] for i in index], [things[i] for i in index], c, r * stretch[todo, None], line
        )
        first, found = ok.float().argmax(1), ok.any(1)
        rows = torch.arange(len(todo))
        centre[todo[found]], radius[todo[found]] = c[rows, first][found], r[rows, first][found]
        horizon[todo[found]] = line[found]
        todo = todo[~found]
        if len(todo) == 0:
            return centre, radius, horizon
    raise RuntimeError(f"no lawful layout found for {specs[int(todo[0])].text!r}")


def render(specs: Sequence[Spec], generator: torch.Generator) -> Picture:
    """Draw a picture of every spec.

    Args:
        specs: what to draw, B of them.
        generator: decides positions, sizes, phases and unnamed backgrounds.

    Returns:
        A `Picture` of B images.
    """
    things = [[thing for thing in spec.things for _ in range(thing.count)] for spec in specs]
    owners = [
        [k for k, thing in enumerate(spec.things) for _ in range(thing.count)] for spec in specs
    ]
    centre, radius, horizon = _draw_layouts(specs, things, generator)
    images = _draw_backgrounds(specs, horizon, generator)
    regions = torch.zeros(len(specs), MOST, SIZE, SIZE)
    gx, gy = _make_grid()
    for name in SHAPES:
        where = [
            (i, j)
            for i, objects in enumerate(things)
            for j, thing in enumerate(objects)
            if thing.shape == name
        ]
        if where:
            i, j = torch.tensor(where).T
            x, y = (g - centre[i, j, axis, None, None] for axis, g in enumerate((gx, gy)))
            distance = compute_signed_distance(name, x, y, radius[i, j, None, None])
            regions[i, j] = (0.5 - distance).clamp(0, 1)  # an edge one pixel wide
    for j in range(MOST):
        paint = torch.zeros(len(specs), 3, 1, 1)
        for i, objects in enumerate(things):
            if j < len(objects):
                paint[i] = torch.tensor(COLOURS[objects[j].colour])[:, None, None]
        images = images + (paint - images) * regions[:, j, None]
    return Picture(images, regions, owners)
