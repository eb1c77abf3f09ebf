"""Second stage: pictures of training prompts as latents, with what the denoiser's losses need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.protocols import Network, Tokenizer
from asyndm.shapes.model import LENGTH
from asyndm.shapes.render import render
from asyndm.shapes.world import Spec, prompts

SHARES: dict[str, float] = {
    "one": 0.07,
    "two": 0.16,
    "three": 0.19,
    "count": 0.13,
    "relation": 0.25,
    "background": 0.05,
    "texture": 0.09,
    "scene": 0.06,
}
"""How often each kind of prompt is drawn in training."""
T = TypeVar("T")


def pick(choices: Sequence[T], generator: torch.Generator) -> T:
    """One of the choices, all alike."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def draw_specs(
    count: int, generator: torch.Generator, shares: Mapping[str, float] = SHARES
) -> list[Spec]:
    """Training specs: a kind by its share, then any of its training combinations, in either word
    order."""
    kinds = list(shares)
    picked = torch.multinomial(
        torch.tensor(list(shares.values())), count, True, generator=generator
    )
    where = torch.rand(count, generator=generator)
    flip = torch.rand(count, generator=generator)
    specs = []
    for kind, at, turned in zip(picked.tolist(), where.tolist(), flip.tolist(), strict=True):
        choices = prompts("train", kinds[kind])
        spec = choices[int(at * len(choices))]
        specs.append(spec.reorder() if turned < 0.5 and len(spec.things) > 1 else spec)
    return specs


def locate_words(spec: Spec) -> list[tuple[int, int]]:
    """Token position and thing index of every colour and shape word: each word is one token, after
    the start."""
    words = spec.text.replace(",", " ,").split()
    found, at = [], 0
    for index, thing in enumerate(spec.things):
        for word in thing.name.split():
            at = words.index(word, at) + 1
            found.append((at, index))
    return found


@torch.no_grad()
def make_dataset(
    vae: Network, tokenizer: Tokenizer, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Render and encode `count` pictures.

    Returns:
        "latents" (n, 8, 16, 16) half precision; "tokens" (n, 24); "regions" (n, 3, 16, 16) uint8,
        the share (0 to 255) of each latent pixel that a *thing* of the prompt covers; "words" (n,
        24) uint8, for each token the thing it names plus one, 0 where it names none.
    """
    parts: dict[str, list[Tensor]] = {"latents": [], "tokens": [], "regions": [], "words": []}
    for first in range(0, count, 512):
        specs = draw_specs(min(512, count - first), generator)
        picture = render(specs, generator)
        encoded = [
            vae.encode(batch * 2 - 1).latent_dist.mean for batch in torch.split(picture.images, 64)
        ]
        words = torch.zeros(len(specs), LENGTH, dtype=torch.uint8)
        for i, spec in enumerate(specs):
            for position, owner in locate_words(spec):
                words[i, position] = owner + 1
        texts = [spec.text for spec in specs]
        tokens = tokenizer(texts, padding="max_length", return_tensors="pt")
        parts["latents"].append(torch.cat(encoded).half())
        parts["tokens"].append(tokens.input_ids)
        regions = F.avg_pool2d(picture.gather_things(), 4)
        parts["regions"].append((regions * 255).round().to(torch.uint8))
        parts["words"].append(words)
    return {name: torch.cat(tensors) for name, tensors in parts.items()}
