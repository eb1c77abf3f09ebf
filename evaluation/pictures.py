"""Pictures to look at: a captioned grid, and strips of timestep maps and masks over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array = npt.NDArray[np.float64]

CELL, GAP, LINE = 144, 10, 13
INK, PAPER = (32, 32, 32), (255, 255, 255)
RIGHT, WRONG, UNKNOWN = (0, 114, 178), (213, 94, 0), (170, 170, 170)
VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)
SUBJECTS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66)], dtype=float
)
"""Colours that remain distinct for the colour-blind (Okabe and Ito)."""


def grid(images: Sequence[Image.Image], captions: Sequence[str], right: Sequence[bool | None]) -> Image.Image:
    """Pictures with their prompt below; a blue frame where they are right, an orange one where wrong.

    Args:
        images: any number of pictures, at least one.
        captions: one each.
        right: one each; None where nothing is known.
    """
    columns = min(8, int(np.ceil(np.sqrt(len(images)))))
    wrapped = [textwrap.wrap(caption, CELL // 6)[:4] for caption in captions]
    height = CELL + LINE * max(len(lines) for lines in wrapped) + GAP
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (GAP + columns * (CELL + GAP), GAP + rows * height), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    for i, (image, lines, mark) in enumerate(zip(images, wrapped, right, strict=True)):
        x, y = GAP + i % columns * (CELL + GAP), GAP + i // columns * height
        frame = UNKNOWN if mark is None else RIGHT if mark else WRONG
        draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), fill=frame)
        canvas.paste(_fit(image), (x, y))
        for j, line in enumerate(lines):
            draw.text((x, y + CELL + 3 + j * LINE), line, fill=INK, font=font)
    return canvas


def strip(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    timesteps: Sequence[Array],
    weights: Sequence[Array],
    columns: int = 8,
) -> Image.Image:
    """For each picture, over some of the steps: its timestep map above its subject masks, then the picture.

    Args:
        images: B pictures.
        captions: B prompts.
        timesteps: for each step (B, H, W), 0 (clean, violet) to 1000 (noise, yellow).
        weights: for each step (B, S, H, W) in [0, 1]; one colour a subject, black where there is none.
        columns: how many steps are shown, evenly spaced, first and last among them.
    """
    shown = np.unique(np.linspace(0, len(timesteps) - 1, min(columns, len(timesteps))).round().astype(int))
    side, block = 72, 2 * 72 + 3 * LINE + GAP
    canvas = Image.new("RGB", (GAP + len(shown) * (side + 4) + CELL + GAP, GAP + len(images) * block), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for b, (image, caption) in enumerate(zip(images, captions, strict=True)):
        y = GAP + b * block
        draw.text((GAP, y), caption, fill=INK, font=font)
        for column, step in enumerate(shown):
            x, levels = GAP + column * (side + 4), timesteps[step][b]
            low, high = levels.min(), levels.max()
            label = f"t {high:.0f}" if round(low) == round(high) else f"t {low:.0f}-{high:.0f}"
            draw.text((x, y + LINE), label, fill=INK, font=font)
            canvas.paste(_fit(_levels(levels), side), (x, y + 2 * LINE))
            canvas.paste(_fit(_regions(weights[step][b]), side), (x, y + 2 * LINE + side + 2))
        canvas.paste(_fit(image), (GAP + len(shown) * (side + 4), y + 2 * LINE))
    return canvas


def _fit(image: Image.Image, side: int = CELL) -> Image.Image:
    """The picture within a square of `side`, its proportions kept; small ones are enlarged without blur."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(
        size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    )


def _levels(timesteps: Array) -> Image.Image:
    place = np.clip(timesteps / 1000, 0, 1) * (len(VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(VIRIDIS)), VIRIDIS[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def _regions(weights: Array) -> Image.Image:
    colours = SUBJECTS[np.arange(len(weights)) % len(SUBJECTS)]
    total = np.maximum(weights.sum(0), 1)[..., None]
    return Image.fromarray((np.einsum("shw,sc->hwc", weights, colours) / total).round().astype(np.uint8))
