"""A picture as a mask: read from whatever a user has, as one grey a pixel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from asyndm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
"""A file name, a PIL image, or an array or tensor (H, W) in [0, 1] or of uint8."""


def read_grey(source: ImageSource) -> Tensor:
    """A mask image as float64 (H, W) in [0, 1], from a file name, a PIL image, an array or a
    tensor.

    Raises:
        UserError: no such file, no picture, or values that are no mask's.
    """
    import torch

    if isinstance(source, (str, Path)):
        source = _open_image(source)
    if isinstance(source, Image.Image):
        source = _convert_to_grey(source)
    try:
        if isinstance(source, torch.Tensor):
            array = source.detach().cpu()
        else:
            array = torch.from_numpy(np.array(source))
    except TypeError:
        raise UserError(f"mask: {source!r} is neither a picture nor an array of numbers") from None
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(array.dtype, 1.0)
    array = array if array.is_complex() else array.double() / scale
    is_plane = array.ndim == 2 and bool(array.numel()) and not array.is_complex()
    if not is_plane or not bool(((array >= 0) & (array <= 1)).all()):
        raise UserError(
            "mask: an array must be (height, width) with values in [0, 1], or uint8 or uint16, "
            f"got {tuple(array.shape)} of {str(array.dtype).removeprefix('torch.')}"
        )
    return array


def _open_image(path: str | Path) -> Image.Image:
    try:
        with Image.open(Path(path).expanduser()) as opened:
            opened.load()
            return opened.copy()
    except FileNotFoundError:
        raise UserError(f"mask: there is no file {str(path)!r}") from None
    except Exception as error:  # Pillow has some six for a broken file, TypeError among them
        reason = str(error).partition("\n")[0]
        raise UserError(f"mask: {str(path)!r} is not a readable image ({reason})") from None


def _convert_to_grey(image: Image.Image) -> np.ndarray[Any, Any]:
    """A picture's grey: 16 bits and floats as they are, all else as 8 bits; what is transparent is
    black."""
    if image.mode.startswith("I"):
        return np.asarray(image) / 65535
    if image.mode == "F":
        return np.asarray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("L"))
