"""How often is the exact checker right? On renders, on their autoencoder round trips, and on wrong
prompts.

python -m experiments.studies.checker_accuracy  # 640 pictures of each of 8 kinds, about a minute
python -m experiments.studies.checker_accuracy --pictures 50 --model shapes_mixed
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from asyndm.protocols import Network
from asyndm.shapes.checker import Verdict, check
from asyndm.shapes.model import CHECKPOINTS, load_pipeline
from asyndm.shapes.render import render
from asyndm.shapes.world import KINDS, SPLITS, prompts
from evaluation.commands import Parser, command_line
from experiments.training.evaluators.near_misses import make_near_miss
from experiments.training.shapes.autoencoder import reconstruct


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


def measure_accuracy(kind: str, count: int, vae: Network, seed: int = 0) -> Accuracy:
    """Draw `count` pictures of a kind, all splits alike, and judge them."""
    generator = torch.Generator().manual_seed(seed)
    every = [spec for split in SPLITS for spec in prompts(split, kind)]
    rows = torch.randint(len(every), (count,), generator=generator).tolist()
    specs = [every[row] for row in rows]
    images = render(specs, generator).images
    wrong = [make_near_miss(spec, generator) for spec in specs]
    trips = check(reconstruct(vae, images), specs)
    reasons = Counter(verdict.reason for verdict in trips if not verdict.correct)
    return Accuracy(
        kind,
        count,
        _share_right(check(images, specs)),
        _share_right(trips),
        _share_right(check(images, wrong)),
        tuple(reasons.most_common(3)),
    )


def _share_right(verdicts: Sequence[Verdict]) -> float:
    return sum(verdict.correct for verdict in verdicts) / len(verdicts)


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line per kind. Returns the exit status."""
    parser = Parser("experiments.studies.checker_accuracy", __doc__)
    parser.add_argument("--pictures", type=int, default=640, help="pictures of each kind")
    parser.add_argument("--model", choices=CHECKPOINTS, default="shapes", help="whose autoencoder")
    chosen = parser.read(arguments)
    if chosen.pictures < 1:
        parser.error("--pictures must be at least 1")
    vae = load_pipeline(chosen.model).vae
    print("| kind | pictures | right on renders | right on round trips | passes a wrong prompt |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        row = measure_accuracy(kind, chosen.pictures, vae)
        print(
            f"| {kind} | {row.pictures} | {row.renders:.4f} | {row.round_trips:.4f} | "
            f"{row.wrong_prompts:.4f} |"
        )
        for reason, times in row.reasons:
            print(f"    {times} x {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
