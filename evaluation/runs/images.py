"""Pictures from files, whatever their kind, as 8 bits of red, green and blue."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from evaluation.runs.files import require_file

DEEP_FORMATS = ("PNG", "PPM", "JPEG2000")
"""Formats whose greys of more than 8 bits always have 16; elsewhere they may be 8 bits in wider
numbers."""
DRAWINGS = ("EPS", "WMF")
"""What Pillow lets another program draw."""
OVERSHOOT = 0.1
"""How far beyond its range a filter may have taken a float picture."""


def open_image(path: Path) -> Image.Image:
    """A picture in memory, 8 bits a channel, upright as its camera says, its file closed; of
    several frames the first. Transparency is left out, as metrics' originals do.

    Raises:
        ValueError: values that stand for no brightness, or no file at all.
        OSError: no picture, or a damaged one.
        Image.DecompressionBombWarning: more pixels than Pillow trusts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(require_file(path)) as image:
            if image.format in DRAWINGS:
                raise ValueError(f"{image.format}, a drawing")
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F" or upright.mode.startswith("I"):
                values, deep = np.asarray(upright), image.format in DEEP_FORMATS
                upright = Image.fromarray(
                    narrow_16_bits(values) if deep else narrow_any_range(values)
                )
            if upright.mode == "P":
                upright = upright.convert("RGBA")
            return Image.fromarray(np.asarray(upright.convert("RGB")))


def narrow_16_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of 16."""
    eight: NDArray[np.uint8] = (values // 257).clip(0, 255).astype(np.uint8)
    return eight


def narrow_any_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of numbers that say no range: floats up to 1 are in 0..1, all else in 0..255, and
    integers beyond that in 0..65535.

    Raises:
        ValueError: values below 0 or above their range, or that are no numbers.
    """
    low, high = values.min(), values.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("values that are no finite numbers")
    if values.dtype.kind != "f" and high > 255:
        top = 65535.0
    else:
        top = 1.0 if values.dtype.kind == "f" and high <= 1 + OVERSHOOT else 255.0
    if low < -OVERSHOOT * top or high > (1 + OVERSHOOT) * top:
        raise ValueError(f"values from {low:g} to {high:g}, neither in 0..1 nor in 0..255")
    if top > 255:
        return narrow_16_bits(values)
    eight: NDArray[np.uint8] = np.rint(values * (255 / top)).clip(0, 255).astype(np.uint8)
    return eight
