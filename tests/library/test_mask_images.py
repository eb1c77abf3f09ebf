from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from asyndm.mask_images import read_grey


def test_what_a_picture_leaves_transparent_is_not_on_the_curve() -> None:
    painted = np.full((2, 2, 4), 255, np.uint8)
    painted[0, :, 3] = 0
    painted[1, 0, 3] = 51
    for mode in ("RGBA", "LA"):
        found = read_grey(Image.fromarray(painted).convert(mode))
        assert torch.allclose(
            found, torch.tensor([[0, 0], [0.2, 1]], dtype=torch.float64), atol=0.01
        )
