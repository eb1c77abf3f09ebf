"""Pictures for metrics that have weights of their own."""

from __future__ import annotations

import numpy as np
from PIL import Image


def draw_noise(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Pictures of these widths and heights, always the same."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]
