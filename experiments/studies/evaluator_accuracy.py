"""How good are the evaluators of the shapes world? On new pictures of test prompts, unseen but for
counts.

    python -m experiments.studies.evaluator_accuracy  # 60 pictures a kind, 2 minutes
    python -m experiments.studies.evaluator_accuracy --pictures 20 --weights runs/evaluators

BLIP-VQA is asked about single phrases, of each sort (objects, counts, surroundings) one that holds
of the picture, where there is one, and one that does not: the share of right answers, yes above P =
0.5. The small CLIP has to find each picture's prompt among all test prompts (text), or one that the
exact checker says the picture shows as well (true text), the picture of each prompt among all
pictures (picture), and to prefer a picture's prompt to the same one changed in one thing (near
miss).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from asyndm.errors import UserError
from asyndm.shapes.checker import check
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import KINDS, prompts
from evaluation.metrics.blip_vqa import BLIPVQA
from evaluation.metrics.clip_score import CLIPScore
from evaluation.networks.weights import EMBEDDED
from evaluation.runs.prompts import Prompt
from experiments.studies.checker_accuracy import near_miss
from experiments.training.evaluators.pictures import (
    Pool,
    false_phrases,
    make_pool,
    pick,
    true_phrases,
)

BATCH = 32


@dataclass(frozen=True)
class Share:
    """Right answers of a sort of question."""

    name: str
    right: int
    asked: int

    def __str__(self) -> str:
        return f"{self.name}: {self.right / self.asked:.4f} of {self.asked}"


def fresh_pool(pictures: int, seed: int) -> Pool:
    """Pictures of the test prompts of every kind, in turn, every second one once through the
    autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    asked = [spec for kind in KINDS for spec in islice(cycle(prompts("test", kind)), pictures)]
    return make_pool(asked, load_pipeline("shapes").vae.float(), generator)


def images(pool: Pool) -> list[Image.Image]:
    """The pool's pictures as Pillow has them."""
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pool.pictures]


def yes_no(metric: BLIPVQA, pool: Pool, seed: int) -> list[Share]:
    """One true and one false phrase of each sort that a picture has, each asked alone."""
    generator = torch.Generator().manual_seed(seed)
    asked: list[tuple[int, str, bool]] = []
    for row, spec in enumerate(pool.drawn):
        for holds, phrases in ((True, true_phrases(spec)), (False, sum(false_phrases(spec), []))):
            for sort in sorted({_sort(phrase) for phrase in phrases}):
                asked.append(
                    (row, pick([p for p in phrases if _sort(p) == sort], generator), holds)
                )
    pictures = images(pool)
    right: dict[str, list[bool]] = {}
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        whose = [Prompt("p", phrase, phrases=(phrase,)) for _, phrase, _ in part]
        for (row, phrase, holds), score in zip(
            part, metric.score([pictures[r] for r, _, _ in part], whose), strict=True
        ):
            assert score.value is not None
            verdict = (score.value > 0.5) == holds
            for name in (
                f"{_sort(phrase)}, {'yes' if holds else 'no'}",
                "all",
                f"all, {('drawn', 'round trip')[row % 2 == 0]}",
            ):
                right.setdefault(name, []).append(verdict)
    return [Share(name, sum(of), len(of)) for name, of in sorted(right.items())]


def _sort(phrase: str) -> str:
    if phrase.endswith("background") or phrase.startswith("the "):
        return "surroundings"
    return "count" if phrase.startswith(("two ", "three ")) else "object"


def retrieval(metric: CLIPScore, pool: Pool, seed: int) -> list[Share]:
    """Among all test prompts, among all pictures of the pool, and against near misses."""
    generator = torch.Generator().manual_seed(seed)
    specs = {spec.text: spec for kind in KINDS for spec in prompts("test", kind)}
    texts = list(specs)
    said = [spec.text for spec in pool.asked]
    wrong = [near_miss(spec, generator).text for spec in pool.asked]
    network, preprocess, tokenizer = metric.loaded

    def read(of: Sequence[str]) -> Tensor:
        return torch.cat(
            [F.normalize(network.encode_text(tokenizer(list(p))), dim=-1) for p in _parts(of)]
        )

    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in images(pool)])
        seen = torch.cat(
            [F.normalize(network.encode_image(p), dim=-1) for p in pixels.split(BATCH)]
        )
        among = seen @ read(texts).T
        own, miss = (seen * read(said)).sum(-1), (seen * read(wrong)).sum(-1)
        pictures = read(texts) @ seen.T
    found = [texts[at] for at in among.argmax(1).tolist()]
    true = [
        verdict.correct for verdict in check(pool.pictures / 255, [specs[text] for text in found])
    ]
    shares = []
    for kind in (*KINDS, "all"):
        rows = [i for i, spec in enumerate(pool.asked) if kind in (spec.kind, "all")]
        shares += [
            Share(f"{kind}, text", sum(found[i] == said[i] for i in rows), len(rows)),
            Share(f"{kind}, true text", sum(true[i] for i in rows), len(rows)),
            Share(f"{kind}, near miss", int((own > miss)[rows].sum()), len(rows)),
        ]
    wanted = [i for i, text in enumerate(texts) if text in set(said)]
    hits = [said[int(pictures[i].argmax())] == texts[i] for i in wanted]
    return [*shares, Share("all, picture", sum(hits), len(hits))]


def _parts(of: Sequence[str]) -> Iterator[Sequence[str]]:
    return (of[start : start + BATCH] for start in range(0, len(of), BATCH))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.evaluator_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=60, metavar="N", help="of each kind")
    parser.add_argument(
        "--weights",
        type=Path,
        default=EMBEDDED,
        metavar="FOLDER",
        help="with clip and blip_vqa in it",
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    blip = BLIPVQA(str(chosen.weights / "blip_vqa"), image_size=64, device="cpu")
    clip = CLIPScore(str(chosen.weights / "clip"), convention="shapes", device="cpu")
    try:
        if chosen.pictures < 1:
            raise UserError(f"--pictures {chosen.pictures}: must be at least 1")
        for metric in (blip, clip):
            metric.check([], (64, 64))
            assert metric.loaded
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pool = fresh_pool(chosen.pictures, chosen.seed)
    for title, shares in (
        ("BLIP-VQA", yes_no(blip, pool, chosen.seed)),
        ("CLIP", retrieval(clip, pool, chosen.seed)),
    ):
        print(title, *(f"  {share}" for share in shares), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
