"""Pictures of every kind of number and file as 8 bits, or a reason why not."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.pictures import open_or_explain
from evaluation.runs.images import open_image

GREY = np.where(np.indices((8, 8)).sum(0) < 8, 79, 255)
"""A picture in 8 bits."""
DEEP: dict[str, Any] = {
    "floats up to 1": GREY.astype(np.float32) / 255,
    "floats up to 255": GREY.astype(np.float32),
    "floats a filter took beyond 1": np.where(GREY == 255, 1.02, GREY / 255).astype(np.float32),
    "16 bits": (GREY * 257).astype(np.uint16),
    "8 bits in 16": GREY.astype(np.uint16),
    "8 bits in 32": GREY.astype(np.int32),
    "16 bits in 32": (GREY * 257).astype(np.int32),
}


def test_pictures_stand_as_their_camera_says_and_have_eight_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)
    Image.fromarray(np.full((4, 4), 25700, np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png")).max() == 100


@pytest.mark.fault(
    what="a picture of floats, or of 8 bits in wider numbers",
    kind="pictures in other numbers",
    now="scored as the same picture in 8 bits",
)
@pytest.mark.parametrize("deep", DEEP)
def test_a_picture_in_other_numbers_is_the_one_in_eight_bits(tmp_path: Path, deep: str) -> None:
    Image.fromarray(DEEP[deep]).save(tmp_path / "a.tiff")
    assert (np.asarray(open_image(tmp_path / "a.tiff")) == GREY[..., None]).all()


@pytest.mark.fault(
    what="a picture of floats that are infinite, negative or beyond 255",
    kind="pictures in other numbers",
    now="not readable: a row without value, with that as the reason",
)
@pytest.mark.parametrize("values", [(np.nan, 1), (np.inf, 1), (-1, 1), (0, 65535)])
def test_floats_that_are_no_brightness_are_refused(
    tmp_path: Path, values: tuple[float, float]
) -> None:
    Image.fromarray(np.array([values] * 2, np.float32)).save(tmp_path / "a.tiff")
    assert "not a readable picture (values" in getattr(
        open_or_explain(tmp_path / "a.tiff"), "reason", ""
    )


def test_pictures_of_every_mode_are_as_shown(tmp_path: Path) -> None:
    """Transparency is left out, of several frames the first is taken."""
    grey = Image.fromarray(GREY.astype(np.uint8))
    two = {"save_all": True, "append_images": [Image.new("L", (8, 8))]}
    written: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "la.png": (Image.merge("LA", [grey, grey.point(lambda v: 255 - v)]), {}),
        "rgba.png": (Image.merge("RGBA", [grey, grey, grey, grey.point(lambda v: 255 - v)]), {}),
        "palette.png": (grey.convert("P"), {"transparency": bytes(range(256))}),
        "frames.gif": (grey.convert("P"), two),
        "frames.webp": (grey.convert("RGB"), {**two, "lossless": True}),
        "cmyk.tiff": (grey.convert("RGB").convert("CMYK"), {}),
    }
    for name, (image, options) in written.items():
        image.save(tmp_path / name, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (np.asarray(open_image(tmp_path / name)) == GREY[..., None]).all(), name


def test_what_is_no_picture_has_a_reason(tmp_path: Path) -> None:
    def png(side: int) -> bytes:
        """A file that claims to be so large a picture, and has no pixel."""
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
            (b"IDAT", b""),
            (b"IEND", b""),
        ]
        parts = [
            struct.pack(">I", len(b)) + t + b + struct.pack(">I", zlib.crc32(t + b))
            for t, b in chunks
        ]
        return b"".join([b"\x89PNG\r\n\x1a\n", *parts])

    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.eps")
    contents = {
        b"": "cannot identify",
        png(100): "truncated",
        png(10_000): "pixels",
        png(100_000): "pixels",
    }
    for content, why in {**contents, (tmp_path / "drawing.eps").read_bytes(): "a drawing"}.items():
        (tmp_path / "a.png").write_bytes(content)
        assert why in getattr(open_or_explain(tmp_path / "a.png"), "reason", "")
