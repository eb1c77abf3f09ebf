"""How often is the exact checker right? On renders, on their autoencoder round trips, and on wrong
prompts.

python -m experiments.studies.checker_accuracy  # 640 pictures of each of 8 kinds, about a minute
python -m experiments.studies.checker_accuracy --pictures 50 --model shapes_mixed
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asyndm.shapes.checker import Verdict, check
from asyndm.shapes.model import CHECKPOINTS, load_pipeline
from asyndm.shapes.render import render
from asyndm.shapes.world import (
    COLOURS,
    KINDS,
    OPPOSITE,
    PLAIN,
    SHAPES,
    SPLITS,
    TEXTURES,
    Spec,
    prompts,
)


@dataclass(frozen=True)
class Accuracy:
    """Shares of the pictures of one kind: judged right as drawn, after a round trip, and with a
    wrong prompt."""

    kind: str
    pictures: int
    renders: float
    round_trips: float
    wrong_prompts: float
    reasons: tuple[tuple[str, int], ...]


def near_miss(spec: Spec, generator: torch.Generator) -> Spec:
    """The same prompt with one thing changed: a colour, a shape, the count, the relation, a place
    or the background."""
    changes = ["colour", "shape"]
    if spec.kind == "count":
        changes.append("count")
    if spec.relation:
        changes.append("relation")
    if spec.background:
        changes.append("place" if spec.background == "scene" else "background")
    change = changes[int(torch.randint(len(changes), (), generator=generator))]
    if change == "relation":
        return replace(spec, relation=OPPOSITE[spec.relation])
    if change == "background":
        same = [
            b
            for b in (*PLAIN, *TEXTURES)
            if b != spec.background and (b in PLAIN) == (spec.background in PLAIN)
        ]
        return replace(
            spec, background=same[int(torch.randint(len(same), (), generator=generator))]
        )
    at = int(torch.randint(len(spec.things), (), generator=generator))
    thing = spec.things[at]
    if change == "colour":
        others = [replace(thing, colour=c) for c in COLOURS if c != thing.colour]
    elif change == "shape":
        others = [replace(thing, shape=s) for s in SHAPES if s != thing.shape]
    elif change == "count":
        others = [replace(thing, count=5 - thing.count)]
    else:
        others = [replace(thing, place="grass" if thing.place == "sky" else "sky")]
    changed = others[int(torch.randint(len(others), (), generator=generator))]
    return replace(spec, things=(*spec.things[:at], changed, *spec.things[at + 1 :]))


@torch.no_grad()
def round_trip(vae: Any, images: Tensor) -> Tensor:
    """Encode and decode pictures (B, 3, 64, 64) in [0, 1]."""
    parts = [
        vae.decode(vae.encode(batch * 2 - 1).latent_dist.mean).sample for batch in images.split(64)
    ]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def measure(kind: str, count: int, vae: Any, seed: int = 0) -> Accuracy:
    """Draw `count` pictures of a kind, all splits alike, and judge them."""
    generator = torch.Generator().manual_seed(seed)
    every = [spec for split in SPLITS for spec in prompts(split, kind)]
    rows = torch.randint(len(every), (count,), generator=generator).tolist()
    specs = [every[row] for row in rows]
    images = render(specs, generator).images
    wrong = [near_miss(spec, generator) for spec in specs]
    trips = check(round_trip(vae, images), specs)
    reasons = Counter(verdict.reason for verdict in trips if not verdict.correct)
    return Accuracy(
        kind,
        count,
        share_right(check(images, specs)),
        share_right(trips),
        share_right(check(images, wrong)),
        tuple(reasons.most_common(3)),
    )


def share_right(verdicts: Sequence[Verdict]) -> float:
    """Share of the pictures judged right."""
    return sum(verdict.correct for verdict in verdicts) / len(verdicts)


def main() -> None:
    """Print one line per kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=640, help="pictures of each kind")
    parser.add_argument("--model", choices=CHECKPOINTS, default="shapes", help="whose autoencoder")
    args = parser.parse_args()
    if args.pictures < 1:
        parser.error("--pictures must be at least 1")
    vae = load_pipeline(args.model).vae
    print("| kind | pictures | right on renders | right on round trips | passes a wrong prompt |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        row = measure(kind, args.pictures, vae)
        print(
            f"| {kind} | {row.pictures} | {row.renders:.4f} | {row.round_trips:.4f} | "
            f"{row.wrong_prompts:.4f} |"
        )
        for reason, times in row.reasons:
            print(f"    {times} x {reason}")


if __name__ == "__main__":
    main()
