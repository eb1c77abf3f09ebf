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

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.errors import UserError
from asyndm.shapes.checker import check
from asyndm.shapes.world import KINDS, prompts
from evaluation.commands import Parser, command_line
from evaluation.metrics.blip_vqa import BLIPVQA
from evaluation.metrics.clip_score import CLIPScore
from evaluation.networks.weights import EMBEDDED
from evaluation.runs.prompts import Prompt
from experiments.training.evaluators.near_misses import make_near_miss
from experiments.training.evaluators.pictures import (
    Pool,
    draw_test_pool,
    list_false_phrases,
    list_true_phrases,
    to_images,
)
from experiments.training.shapes.dataset import pick

BATCH = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Right answers of a sort of question."""

    name: str
    right: int
    asked: int

    def __str__(self) -> str:
        return f"{self.name}: {self.right / self.asked:.4f} of {self.asked}"


class Question(NamedTuple):
    """Whether a phrase holds of the picture of a row."""

    row: int
    phrase: str
    holds: bool


def measure_answers(metric: BLIPVQA, pool: Pool, seed: int) -> list[Share]:
    """One true and one false phrase of each sort that a picture has, each asked alone."""
    generator = torch.Generator().manual_seed(seed)
    asked = list[Question]()
    for row, spec in enumerate(pool.drawn):
        false = list(chain(*list_false_phrases(spec)))
        for holds, phrases in ((True, list_true_phrases(spec)), (False, false)):
            for sort in sorted({_name_sort(phrase) for phrase in phrases}):
                of_sort = [phrase for phrase in phrases if _name_sort(phrase) == sort]
                asked.append(Question(row, pick(of_sort, generator), holds))
    images = to_images(pool)
    right: dict[str, list[bool]] = {}
    for part in _split(asked):
        prompts = [Prompt("p", question.phrase, phrases=(question.phrase,)) for question in part]
        scores = metric.score([images[question.row] for question in part], prompts)
        for question, score in zip(part, scores, strict=True):
            assert score.value is not None
            answer = "yes" if question.holds else "no"
            origin = "round trip" if question.row % 2 == 0 else "drawn"
            for name in (f"{_name_sort(question.phrase)}, {answer}", "all", f"all, {origin}"):
                right.setdefault(name, []).append((score.value > 0.5) == question.holds)
    return [Share(name, sum(of), len(of)) for name, of in sorted(right.items())]


def _name_sort(phrase: str) -> str:
    if phrase.endswith("background") or phrase.startswith("the "):
        return "surroundings"
    return "count" if phrase.startswith(("two ", "three ")) else "object"


def measure_retrieval(metric: CLIPScore, pool: Pool, seed: int) -> list[Share]:
    """Among all test prompts, among all pictures of the pool, and against near misses."""
    generator = torch.Generator().manual_seed(seed)
    specs = {spec.text: spec for kind in KINDS for spec in prompts("test", kind)}
    texts = list(specs)
    own_texts = [spec.text for spec in pool.asked]
    wrong = [make_near_miss(spec, generator).text for spec in pool.asked]
    network, preprocess, tokenizer = metric.loaded

    def read(of: Sequence[str]) -> Tensor:
        return torch.cat(
            [F.normalize(network.encode_text(tokenizer(list(p))), dim=-1) for p in _split(of)]
        )

    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in to_images(pool)])
        seen = torch.cat(
            [F.normalize(network.encode_image(p), dim=-1) for p in torch.split(pixels, BATCH)]
        )
        among = seen @ read(texts).T
        own, miss = (seen * read(own_texts)).sum(-1), (seen * read(wrong)).sum(-1)
        pictures = read(texts) @ seen.T
    found = [texts[at] for at in among.argmax(1).tolist()]
    true = [
        verdict.correct for verdict in check(pool.pictures / 255, [specs[text] for text in found])
    ]
    shares = []
    for kind in (*KINDS, "all"):
        rows = [i for i, spec in enumerate(pool.asked) if kind in (spec.kind, "all")]
        shares += [
            Share(f"{kind}, text", sum(found[i] == own_texts[i] for i in rows), len(rows)),
            Share(f"{kind}, true text", sum(true[i] for i in rows), len(rows)),
            Share(f"{kind}, near miss", int((own > miss)[rows].sum()), len(rows)),
        ]
    wanted = [i for i, text in enumerate(texts) if text in set(own_texts)]
    hits = [own_texts[int(pictures[i].argmax())] == texts[i] for i in wanted]
    return [*shares, Share("all, picture", sum(hits), len(hits))]


def _split(of: Sequence[T]) -> Iterator[Sequence[T]]:
    return (of[start : start + BATCH] for start in range(0, len(of), BATCH))


@command_line(errors=(UserError,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.studies.evaluator_accuracy", __doc__)
    parser.add_argument("--pictures", type=int, default=60, metavar="N", help="of each kind")
    parser.add_argument(
        "--weights",
        type=Path,
        default=EMBEDDED,
        metavar="FOLDER",
        help="with clip and blip_vqa in it",
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.read(arguments)
    blip = BLIPVQA(str(chosen.weights / "blip_vqa"), image_size=64, device="cpu")
    clip = CLIPScore(str(chosen.weights / "clip"), convention="shapes", device="cpu")
    if chosen.pictures < 1:
        raise UserError(f"--pictures {chosen.pictures}: must be at least 1")
    for metric in (blip, clip):
        metric.check([], (64, 64))
        assert metric.loaded
    pool = draw_test_pool(chosen.pictures, chosen.seed)
    for title, shares in (
        ("BLIP-VQA", measure_answers(blip, pool, chosen.seed)),
        ("CLIP", measure_retrieval(clip, pool, chosen.seed)),
    ):
        print(title, *(f"  {share}" for share in shares), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
