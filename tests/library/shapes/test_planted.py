"""Planted masks: the renderer's own objects, of the prompt or of another, alone as in any batch."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import asyndm
from asyndm.errors import UserError
from asyndm.records import StepRecord
from asyndm.scene import Scene
from asyndm.shapes.planted import PlantedMask, find_other
from asyndm.shapes.render import render
from asyndm.shapes.world import KINDS, SPLITS, index_specs, prompts, take_turns

TEXTS = [prompts("test", kind)[0].text for kind in KINDS]
SEEDS = [5 + i for i in range(len(TEXTS))]
GRID = (16, 16)


def refuse_maps() -> torch.Tensor:
    raise AssertionError("this mask needs no rehearsal")


def find_weights(mask: asyndm.Mask, images: int = 1) -> torch.Tensor:
    """The weights (B, H, W) of the subject of largest ω; those of the other one are nought."""
    scene = Scene(torch.tensor([[0.3, 0.5]] * images, dtype=torch.float64), GRID)
    weights = mask.initial(scene, refuse_maps)
    assert weights.dtype == torch.float64 and not weights[:, 0].any()
    return weights[:, 1]


def draw_objects(text: str, seed: int) -> np.ndarray[Any, Any]:
    """Where the renderer draws the things of a prompt: cells a quarter of which one covers, and
    those around them."""
    spec = index_specs()[text]
    digest = hashlib.sha256(f"{spec.digest} {seed}".encode()).digest()
    picture = render([spec], torch.Generator().manual_seed(int.from_bytes(digest[:8])))
    assert len(picture.owners[0]) == sum(thing.count for thing in spec.things)
    marked = np.zeros((18, 18), bool)
    for place in range(len(spec.things)):
        own = [
            region
            for region, of in zip(picture.regions[0], picture.owners[0], strict=False)
            if of == place
        ]
        cells = sum(own).numpy().reshape(16, 4, 16, 4).mean((1, 3))
        for row, column in np.argwhere(cells > 0.25):
            marked[row : row + 3, column : column + 3] = True
    return marked[1:-1, 1:-1]


def test_the_renderers_objects_are_on_the_curve_grown_by_a_cell() -> None:
    weights = find_weights(PlantedMask().prepare(TEXTS, SEEDS), len(TEXTS))
    for text, seed, own in zip(TEXTS, SEEDS, weights, strict=True):
        assert np.array_equal(own.numpy(), draw_objects(text, seed)), text
    assert 0.1 < float(weights.mean()) < 0.5
    moved = find_weights(PlantedMask().prepare(TEXTS[:1], [SEEDS[0] + 1]))
    assert not torch.equal(moved, weights[:1])


def test_ahead_is_all_that_is_not_an_object() -> None:
    slow, ahead = (
        find_weights(PlantedMask(ahead=flag).prepare(TEXTS[:2], SEEDS[:2]), 2)
        for flag in (False, True)
    )
    assert torch.equal(ahead, 1 - slow) and 0 < slow.mean() < 1


def test_anothers_layout_is_that_of_another_prompt() -> None:
    others = [find_other(index_specs()[text]).text for text in TEXTS]
    assert not set(others) & set(TEXTS[:1])
    lent = find_weights(PlantedMask("another").prepare(TEXTS, SEEDS), len(TEXTS))
    own = find_weights(PlantedMask().prepare(others, SEEDS), len(TEXTS))
    assert torch.equal(lent, own)


def test_each_prompt_of_a_split_is_the_other_of_one() -> None:
    for split in SPLITS[1:]:
        ring = take_turns(split)
        others = [find_other(spec) for spec in ring]
        assert others != ring and sorted(others, key=repr) == sorted(ring, key=repr)
        assert all(a is not b for a, b in zip(ring, others, strict=True))


def test_a_prompt_in_other_words_has_the_same_layout() -> None:
    spec = prompts("test", "relation")[0]
    said = PlantedMask().prepare([spec.text, spec.reorder().text], [1, 1])
    one, other = find_weights(said, 2)
    assert torch.equal(one, other)


@pytest.mark.parametrize("mask", [PlantedMask(), PlantedMask("another", ahead=True)])
def test_an_image_of_a_batch_has_the_mask_it_has_alone(
    pipe: StableDiffusionPipeline, mask: PlantedMask
) -> None:
    def sample(prompt: list[str], **how: Any) -> torch.Tensor:
        weights: dict[int, torch.Tensor] = {}

        def keep(record: StepRecord) -> None:
            assert record.weights.shape[1] == 1
            weights.update(zip(record.images, record.weights[:, 0], strict=True))

        how = {"num_inference_steps": 2, "output_type": "latent", "callback": keep, **how}
        asyndm.sample(pipe, prompt, mask=mask, **how)
        return torch.stack([weights[image] for image in sorted(weights)])

    both = sample(TEXTS[3:5], num_images_per_prompt=2, seed=7, batch_invariant=False)
    assert torch.equal(both, sample(TEXTS[3:5], num_images_per_prompt=2, seed=7))
    assert torch.equal(both[3:], sample([TEXTS[4]], seed=8))
    known = mask.prepare([TEXTS[3], TEXTS[3], TEXTS[4], TEXTS[4]], [7, 8, 7, 8])
    assert torch.equal(both, find_weights(known, 4))


def test_what_it_cannot_be_made_for_is_refused(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.forward = None
    try:
        with pytest.raises(UserError, match="'a dog' is not a prompt of the shapes world"):
            asyndm.sample(pipe, [TEXTS[0], "a dog"], mask=PlantedMask())
        with (
            pytest.raises(UserError, match=r"needs the prompt and the seed .* use asyndm\.sample"),
            asyndm.asynchronous(pipe, TEXTS[0], mask=PlantedMask()),
        ):
            pass
    finally:
        del pipe.unet.forward
    with pytest.raises(UserError, match="layout_of must be one of own, another, got 'mine'"):
        PlantedMask("mine")
    with pytest.raises(UserError, match="mask ahead must be true or false"):
        PlantedMask(ahead="yes")  # type: ignore[arg-type]
