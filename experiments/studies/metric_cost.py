"""What BLIP-VQA costs for 1,000 pairs of picture and phrase, against the naive way, side by side.

    python -m experiments.studies.metric_cost                          # the small BLIP, 1,000 pairs
    python -m experiments.studies.metric_cost --size large --pairs 16  # BLIP base, 480 px, 1.5 GB
    python -m experiments.studies.metric_cost --size large --device cuda --pairs 1000

The naive way is that of the original script without its empty questions: the network is built anew
for the first phrase of all prompts, for the second, and so on (these prompts have up to 4 phrases,
others up to 8); every question is asked alone and its picture encoded for it. Both ways take turns,
twice; ours builds the network once.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from asyndm.errors import UserError
from evaluation.commands import Parser, command_line
from evaluation.metrics.blip_vqa import BLIPVQA, list_questions, prepare_image
from evaluation.networks.blip import VQA, compute_first_logits
from evaluation.runs.prompts import Prompt
from experiments.timing.blip import build_large_blip
from experiments.training.evaluators.pictures import draw_test_pool, to_images

PAIRS_OF_ALL_KINDS = 17
"""Phrases of one prompt of each kind, about."""


@torch.no_grad()
def score_naively(
    metric: BLIPVQA, pictures: Sequence[Image.Image], prompts: Sequence[Prompt]
) -> tuple[list[float], float]:
    """The scores of the pictures, one question at a time, and the seconds that building networks
    took."""
    asked, building = [list_questions(prompt) for prompt in prompts], 0.0
    found: list[list[float]] = [[] for _ in prompts]
    for number in range(max(map(len, asked))):
        began = time.perf_counter()
        vqa = metric.load()
        building += time.perf_counter() - began
        for row, own in enumerate(asked):
            if number < len(own):
                found[row].append(round(answer_alone(metric, vqa, pictures[row], own[number]), 4))
    return [round(math.prod(answers), 4) for answers in found], building


def answer_alone(metric: BLIPVQA, vqa: VQA, picture: Image.Image, question: str) -> float:
    """P(yes) of one question about one picture."""
    pixels = torch.from_numpy(prepare_image(picture, metric.image_size))[None].to(metric.where)
    seen = vqa.network.vision_model(pixels).last_hidden_state
    words = vqa.tokenizer(question, return_tensors="pt")["input_ids"].to(metric.where)
    words[:, 0] = vqa.enc
    logits = compute_first_logits(vqa.network, seen, words, vqa.dec)[0]
    return float(logits[[vqa.yes, vqa.no]].softmax(-1)[0])


def score_in_batches(
    metric: BLIPVQA, pictures: Sequence[Image.Image], prompts: Sequence[Prompt], size: int
) -> list[float]:
    """The same by the metric, in batches."""
    scores = []
    for start in range(0, len(pictures), size):
        scores += metric.score(pictures[start : start + size], prompts[start : start + size])
    return [math.nan if score.value is None else score.value for score in scores]


@dataclass
class Cost:
    """Seconds of each way over `pairs`, those of building networks apart, and the largest
    difference of a score."""

    pairs: int = 0
    asking: float = 0.0
    building: float = 0.0
    batched: float = 0.0
    difference: float = 0.0


def measure_cost(metric: BLIPVQA, pairs: int, batch_size: int) -> Cost:
    """At least so many pairs of test prompts' pictures and their phrases, twice: naive, ours, ours,
    naive."""
    pool = draw_test_pool(math.ceil(pairs / PAIRS_OF_ALL_KINDS), seed=0)
    prompts = [
        Prompt(f"p{i}", spec.text, phrases=spec.phrases) for i, spec in enumerate(pool.asked)
    ]
    pictures, cost = to_images(pool), Cost()
    for order in (("naive", "ours"), ("ours", "naive")):
        scores = {}
        for way in order:
            began = time.perf_counter()
            if way == "naive":
                scores[way], building = score_naively(metric, pictures, prompts)
                cost.building += building
                cost.asking += time.perf_counter() - began - building
            else:
                scores[way] = score_in_batches(metric, pictures, prompts, batch_size)
                cost.batched += time.perf_counter() - began
        cost.pairs += sum(len(prompt.phrases) for prompt in prompts)
        differences = [abs(a - b) for a, b in zip(scores["naive"], scores["ours"], strict=True)]
        cost.difference = max(cost.difference, *differences)
    return cost


@command_line(errors=(UserError,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.studies.metric_cost", __doc__)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--pairs", type=int, default=1000, metavar="N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--device", default="cpu")
    chosen = parser.read(arguments)
    if chosen.pairs < 1 or chosen.batch_size < 1:
        raise UserError("--pairs and --batch-size must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        model, image_size = ("shapes", 64) if chosen.size == "small" else (folder, 480)
        if chosen.size == "large":
            build_large_blip(Path(folder))
        metric = BLIPVQA(model, image_size=image_size, device=chosen.device)
        metric.check([], (64, 64))
        began = time.perf_counter()
        assert metric.loaded
        loading = time.perf_counter() - began
        cost = measure_cost(metric, chosen.pairs, chosen.batch_size)
    scale = 1000 / cost.pairs
    slow, fast = cost.asking * scale + cost.building / 2, cost.batched * scale + loading
    print(
        f"{cost.pairs} pairs each way, {chosen.size}, {metric.where}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"naive  {slow:9.2f} s for 1,000 pairs, {cost.building / 2:.2f} s of them building the "
        "network again"
    )
    print(f"ours   {fast:9.2f} s for 1,000 pairs, {loading:.2f} s of them building it once")
    print(f"ratio  {slow / fast:9.2f}; largest difference of a score {cost.difference:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
