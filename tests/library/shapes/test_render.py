"""The renderer: what is said is what is drawn."""

from __future__ import annotations

import pytest
import torch

from asyndm.shapes.render import SIZE, render
from asyndm.shapes.world import COLOURS, KINDS, prompts


@pytest.mark.parametrize("kind", KINDS)
def test_objects_have_their_colour_keep_apart_and_stay_inside(kind: str) -> None:
    specs = prompts("train", kind)[:12]
    picture = render(specs, torch.Generator().manual_seed(1))
    assert picture.images.shape == (len(specs), 3, SIZE, SIZE)
    assert float(picture.images.min()) >= 0
    assert float(picture.images.max()) <= 1
    assert float(picture.regions.sum(1).max()) <= 1 + 1e-6, "objects overlap"
    for i, spec in enumerate(specs):
        assert [picture.owners[i].count(k) for k in range(len(spec.things))] == [
            t.count for t in spec.things
        ]
        for j, owner in enumerate(picture.owners[i]):
            inside = picture.regions[i, j] == 1
            colour = torch.tensor(COLOURS[spec.things[owner].colour])
            torch.testing.assert_close(
                picture.images[i][:, inside], colour[:, None].expand(3, int(inside.sum()))
            )
            assert int(inside.sum()) > 60
            assert not inside[0].any()
            assert not inside[:, -1].any()


def test_a_picture_is_its_seed() -> None:
    specs = prompts("val", "texture")[:6]
    one, two, other = (render(specs, torch.Generator().manual_seed(s)).images for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
