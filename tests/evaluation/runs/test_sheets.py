"""Pictures to look at show what they are given, where they should."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evaluation.runs import sheets as pictures
from evaluation.runs.colours import RIGHT, UNKNOWN, WRONG, to_rgb
from evaluation.runs.traces import SUBJECTS, make_trace

RED = Image.new("RGB", (16, 16), (255, 0, 0))
BLUE = Image.new("RGB", (16, 8), (0, 0, 255))


def find_colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def test_a_grid_frames_what_is_right_and_wrong() -> None:
    canvas = pictures.compose_grid(
        [RED, BLUE, RED], ["a red square", "blue", "words " * 40], [True, False, None]
    )
    assert find_colours(canvas) >= {
        (255, 0, 0),
        (0, 0, 255),
        *map(to_rgb, (RIGHT, WRONG, UNKNOWN)),
    }
    corner = np.asarray(canvas)[
        pictures.GAP : pictures.GAP + pictures.CELL, pictures.GAP : pictures.GAP + pictures.CELL
    ]
    assert (corner == (255, 0, 0)).all()


def test_a_grid_of_many_is_eight_wide() -> None:
    canvas = pictures.compose_grid([RED] * 70, ["x"] * 70, [None] * 70)
    assert canvas.width == pictures.GAP + 8 * (pictures.CELL + pictures.GAP)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_strip_shows_levels_subjects_and_predictions(steps: int) -> None:
    weights = np.zeros((steps, 2, 4, 4))
    weights[:, 0, :2], weights[:, 1, 2:, 2:] = 1, 1
    levels = np.stack([np.full((4, 4), level) for level in np.linspace(1000, 0, steps)])
    way, green = (
        make_trace(range(1, steps + 1), levels, weights),
        Image.new("RGB", (8, 8), (0, 255, 0)),
    )
    canvas = pictures.compose_strip(
        [RED, BLUE], ["first", "second"], [way] * 2, [[green] * steps] * 2
    )
    first, second = (tuple(int(c) for c in colour) for colour in SUBJECTS[:2])
    shown = {(253, 231, 37), first, second, (0, 0, 0), (255, 0, 0), (0, 0, 255), (0, 255, 0)}
    assert find_colours(canvas) >= shown
    narrower = pictures.compose_strip([RED], ["first"], [way], [[green] * steps])
    assert narrower.width == canvas.width and narrower.height < canvas.height
