"""Does a picture show its prompt? Exactly, with the reason, and with nothing learned.

Saturated pixels are objects: connected components, each of the hue of its core. A component's
outline, moved to its centroid and scaled by its area, is held against the outline of every shape
(intersection over union). The rest is background: a shade, a texture by its best correlation, or
sky above grass by a horizon. The picture is right if objects and counts are those of the prompt,
none more, and its relation, places and background hold.

Needs scipy: ``pip install 'asyndm[checker]'``; without it the import raises `UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyndm.errors import UserError
from asyndm.shapes.render import GRASS, PERIOD, SIZE, SKY, draw_outline, draw_texture
from asyndm.shapes.world import COLOURS, PLACES, PLAIN, SHAPES, TEXTURES, Spec, Thing

try:
    from scipy import ndimage
except ImportError as error:
    raise UserError("asyndm.shapes.checker needs scipy: pip install 'asyndm[checker]'") from error

SATURATED = 0.33
"""Least chroma (largest minus smallest of r, g, b) of an object's pixel."""
SMALLEST = 30
"""Components of fewer pixels are specks, not objects."""
LIKENESS = 0.72
"""Least intersection over union with the best shape's outline."""
APART = 6.0
"""Pixels by which a relation must hold."""
_GRID, _SCALE = 40, 22.0
"""Outlines are compared on a grid of 40x40, on which each has the area of a square of side 22."""
_AROUND = np.ones((3, 3), dtype=bool)

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows its prompt; if not, why; and whether the number of things is right.

    `surplus` = max(found - asked, 0) and `missing` = max(asked - found, 0), of all things together:
    found are all objects of the picture, asked for the sum of the prompt's counts. So a thing of
    another colour or shape is neither, and a picture never has both. Objects of one hue that touch
    are found as one.
    """

    correct: bool
    reason: str = ""
    surplus: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Found:
    """One object of a picture: colour, shape ("" if it is like none), centroid in pixels, likeness
    to its shape."""

    colour: str
    shape: str
    x: float
    y: float
    likeness: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape or 'blob'}"


def check(images: Tensor, specs: Sequence[Spec]) -> list[Verdict]:
    """Judge pictures against their specs.

    Args:
        images: (B, 3, 64, 64) in [0, 1].
        specs: the meaning of each picture's prompt.

    Raises:
        ValueError: another shape, or not as many specs as images.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE) or len(images) != len(specs):
        raise ValueError(
            f"the checker takes one (3, {SIZE}, {SIZE}) picture per spec: got "
            f"{tuple(images.shape)} for {len(specs)}"
        )
    pixels = images.detach().cpu().double().clamp(0, 1).numpy()
    return [_judge_picture(picture, spec) for picture, spec in zip(pixels, specs, strict=True)]


def _judge_picture(picture: Array, spec: Spec) -> Verdict:
    objects = find_objects(picture)
    reasons = _check_objects(objects, spec.things)
    if not reasons and spec.relation:
        reasons += _check_relation(objects, spec)
    if spec.background:
        # two pixels around objects are mixtures of both, after the autoencoder more so than drawn
        free = ~ndimage.binary_dilation(_find_saturated(picture), _AROUND, iterations=2)
        reasons += _check_background(picture, free, spec.background)
        if spec.background == "scene" and not reasons:
            reasons += _check_places(objects, spec.things, find_horizon(picture, free)[0])
    more = len(objects) - sum(thing.count for thing in spec.things)
    return Verdict(not reasons, "; ".join(reasons), max(more, 0), max(-more, 0))


def find_objects(picture: Array) -> list[Found]:
    """All objects of a picture (3, 64, 64)."""
    hues = _match_colours(picture)
    labels, count = ndimage.label(_find_saturated(picture), _AROUND)
    found = []
    for component in range(1, count + 1):
        inside: Mask = labels == component
        if inside.sum() < SMALLEST:
            continue
        cores = [
            index
            for index in range(len(COLOURS))
            if ndimage.binary_erosion(inside & (hues == index), _AROUND).sum() >= SMALLEST / 3
        ]
        # objects that touch are one component; where two hues have a core, each hue is parted
        if len(cores) <= 1:
            colour = cores[0] if cores else int(np.bincount(hues[inside]).argmax())
            found.append(_recognise(inside, list(COLOURS)[colour]))
            continue
        for index in cores:
            parts, many = ndimage.label(inside & (hues == index), _AROUND)
            for part in range(1, many + 1):
                if (parts == part).sum() >= SMALLEST:
                    found.append(_recognise(parts == part, list(COLOURS)[index]))
    return found


def _find_saturated(picture: Array) -> Mask:
    """The pixels of objects."""
    mask: Mask = np.ptp(picture, axis=0) > SATURATED
    return mask


def _compute_hue(rgb: Array) -> Array:
    """The hue angle in radians, of (3, ...)."""
    r, g, b = rgb
    angle: Array = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)
    return angle


def _match_colours(picture: Array) -> npt.NDArray[np.int64]:
    """For every pixel, the index of the colour of nearest hue."""
    named = _compute_hue(np.array(list(COLOURS.values())).T)
    away = np.abs(np.angle(np.exp(1j * (_compute_hue(picture)[None] - named[:, None, None]))))
    nearest: npt.NDArray[np.int64] = away.argmin(0)
    return nearest


@cache
def _draw_outlines() -> npt.NDArray[np.bool_]:
    """(shapes, 40, 40), each with an area of 22² pixels about its centroid."""
    return np.stack([draw_outline(shape, _GRID, _SCALE).numpy() > 0 for shape in SHAPES])


def _recognise(inside: Mask, colour: str) -> Found:
    y, x = ndimage.center_of_mass(inside)
    step = float(np.sqrt(inside.sum())) / _SCALE
    offsets = (np.arange(_GRID) - (_GRID - 1) / 2) * step
    where = np.stack(np.meshgrid(offsets + y, offsets + x, indexing="ij"))
    seen = ndimage.map_coordinates(inside.astype(float), where, order=1) > 0.5
    outlines = _draw_outlines()
    likeness = (outlines & seen).sum((1, 2)) / (outlines | seen).sum((1, 2))
    best = int(likeness.argmax())
    shape = SHAPES[best] if likeness[best] >= LIKENESS else ""
    return Found(colour, shape, float(x), float(y), float(likeness[best]))


def _check_objects(objects: Sequence[Found], things: Sequence[Thing]) -> list[str]:
    """Missing, miscoloured, misshapen, miscounted and unexpected objects."""
    wanted = Counter({(t.colour, t.shape): t.count for t in things})
    seen = Counter((o.colour, o.shape) for o in objects)
    missing, extra = wanted - seen, seen - wanted
    reasons = []
    for (colour, shape), lack in missing.items():
        name = f"{colour} {shape}"
        other_colour = next((e for e in extra if e[1] == shape and extra[e]), None)
        other_shape = next((e for e in extra if e[0] == colour and extra[e]), None)
        if wanted[colour, shape] > 1 or seen[colour, shape]:
            reasons.append(f"{seen[colour, shape]} {name}s instead of {wanted[colour, shape]}")
        elif other_colour:
            reasons.append(f"the {name} is {other_colour[0]}")
            extra[other_colour] -= lack
        elif other_shape:
            reasons.append(f"the {name} is a {other_shape[1] or 'blob'}")
            extra[other_shape] -= lack
        else:
            reasons.append(f"the {name} is missing")
    for (colour, shape), many in extra.items():
        name = f"{colour} {shape or 'blob'}"
        if many > 0 and wanted[colour, shape]:
            reasons.append(f"{seen[colour, shape]} {name}s instead of {wanted[colour, shape]}")
        elif many > 0:
            reasons.append(f"unexpected {name}")
    return reasons


def _check_relation(objects: Sequence[Found], spec: Spec) -> list[str]:
    first, second = (
        next(o for o in objects if (o.colour, o.shape) == (t.colour, t.shape)) for t in spec.things
    )
    right, down = second.x - first.x, second.y - first.y
    along, across = {
        "above": (down, right),
        "below": (-down, right),
        "left of": (right, down),
        "right of": (-right, down),
    }[spec.relation]
    if along >= APART and along > abs(across):
        return []
    return [f"the {first.name} is not {spec.relation} the {second.name}"]


def _check_places(objects: Sequence[Found], things: Sequence[Thing], line: float) -> list[str]:
    reasons = []
    for thing in things:
        found = next(o for o in objects if (o.colour, o.shape) == (thing.colour, thing.shape))
        if (found.y < line) != (thing.place == "sky"):
            reasons.append(f"the {found.name} is not {PLACES[thing.place]}")
    return reasons


def find_horizon(picture: Array, free: Mask) -> tuple[float, float]:
    """The row that best parts sky above from grass below, and the share of free pixels that fit
    neither."""
    sky, grass = (
        (np.abs(picture - np.array(colour)[:, None, None]).mean(0) < 0.13) & free
        for colour in (SKY, GRASS)
    )
    above = np.concatenate([[0], np.cumsum(sky.sum(1))])
    below = grass.sum() - np.concatenate([[0], np.cumsum(grass.sum(1))])
    line = int((above + below).argmax())
    return float(line), 1 - float((above + below)[line]) / max(1, int(free.sum()))


def _check_background(picture: Array, free: Mask, wanted: str) -> list[str]:
    if free.sum() < SIZE * SIZE / 8:
        return ["no background to see"]
    if wanted == "scene":
        line, misfit = find_horizon(picture, free)
        is_scene = misfit < 0.15 and 10 < line < SIZE - 10
        return [] if is_scene else ["the background is not sky over grass"]
    seen = recognise_background(picture, free)
    return [] if seen == wanted else [f"the background is {seen or 'unclear'}, not {wanted}"]


def recognise_background(picture: Array, free: Mask) -> str:
    """The shade or texture of the free pixels, or "" if it is none."""
    grey = picture.mean(0)
    spread = float(grey[free].std())
    # a background of colour, as sky and grass are, is neither a shade nor a texture of grey
    if float(np.ptp(picture, axis=0)[free].mean()) > 0.12:
        return ""
    if spread < 0.06:
        shade = min(PLAIN, key=lambda name: abs(PLAIN[name] - float(grey[free].mean())))
        return shade if abs(PLAIN[shade] - float(grey[free].mean())) < 0.2 else ""
    names, patterns, squares = _draw_textures()
    weight = free.ravel().astype(float)
    total = weight.sum()
    centred = (grey.ravel() - grey[free].mean()) * weight
    mean = patterns @ weight / total
    variance = squares @ weight / total - mean**2
    correlation = (patterns @ centred) / total / np.sqrt(variance.clip(1e-9)) / spread
    best = int(correlation.argmax())
    return names[best] if correlation[best] > 0.6 else ""


@cache
def _draw_textures() -> tuple[list[str], Array, Array]:
    """Every texture at every phase (names; patterns (K, 4096); their squares)."""
    names: list[str] = []
    patterns: list[Tensor] = []
    for name in TEXTURES:
        # every second pixel will do: half a pixel more or less costs little of a correlation
        reach = PERIOD * 3 // 2 if name == "checkered" else PERIOD
        phases = torch.cartesian_prod(torch.arange(0, reach, 2), torch.arange(0, reach, 2)).float()
        for turned in (False, True) if name == "striped" else (False,):
            patterns.append(
                draw_texture(name, phases[:, 0], phases[:, 1], torch.full((len(phases),), turned))
            )
            names += [name] * len(phases)
    stacked = torch.cat(patterns).flatten(1).double().numpy()
    return names, stacked, stacked**2
