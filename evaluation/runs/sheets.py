"""Pictures to look at: a captioned grid, and strips of timestep maps, masks and predicted pictures
over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.runs.colours import choose_frame, to_rgb
from evaluation.runs.traces import Trace

CELL, GAP, LINE = 144, 10, 13
INK, PAPER = (32, 32, 32), (255, 255, 255)


def _load_greek_font() -> ImageFont.FreeTypeFont:
    """Small, with a σ, which Pillow's own lacks."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    return ImageFont.truetype(str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), 9)


def compose_grid(
    images: Sequence[Image.Image], captions: Sequence[str], right: Sequence[bool | None]
) -> Image.Image:
    """Pictures with their prompt below; a blue frame where they are right, an orange one where
    wrong.

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
        frame = to_rgb(choose_frame(mark))
        draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), fill=frame)
        canvas.paste(_fit(image), (x, y))
        for j, line in enumerate(lines):
            draw.text((x, y + CELL + 3 + j * LINE), line, fill=INK, font=font)
    return canvas


def compose_strip(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    traces: Sequence[Trace],
    previews: Sequence[Sequence[Image.Image]],
) -> Image.Image:
    """For each picture, over some of the steps: its timestep map, its subjects' masks and the
    predicted clean picture; then the picture.

    Args:
        images: B pictures.
        captions: B prompts.
        traces: B of them.
        previews: for each, a picture a step of its trace.
    """
    side = 72
    block, wide = (
        LINE * 2 + 3 * (side + 2) + GAP,
        max(len(way.steps) for way in traces) * (side + 4),
    )
    canvas = Image.new("RGB", (GAP + wide + CELL + GAP, GAP + len(images) * block), PAPER)
    draw, font, labels = ImageDraw.Draw(canvas), ImageFont.load_default(size=10), _load_greek_font()
    for b, (image, caption, way, frames) in enumerate(
        zip(images, captions, traces, previews, strict=True)
    ):
        y = GAP + b * block
        draw.text((GAP, y), caption, fill=INK, font=font)
        rows = (way.maps, way.masks, frames)
        for column, label in enumerate(way.labels):
            x = GAP + column * (side + 4)
            draw.text((x, y + LINE), label, fill=INK, font=labels)
            for row, cells in enumerate(rows):
                canvas.paste(_fit(cells[column], side), (x, y + 2 * LINE + row * (side + 2)))
        canvas.paste(_fit(image), (GAP + wide, y + 2 * LINE))
    return canvas


def _fit(image: Image.Image, side: int = CELL) -> Image.Image:
    """The picture within a square of `side`, its proportions kept; small ones are enlarged without
    blur."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(
        size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    )
