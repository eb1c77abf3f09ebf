"""One way of training for both evaluators: AdamW, its learning rate following the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asyndm.protocols import Network
from asyndm.shapes.world import Spec
from evaluation.networks.blip import compute_first_logits
from experiments.training.evaluators.networks import NORMAL, WIDTH
from experiments.training.evaluators.pictures import (
    CONTENTS,
    Pool,
    list_false_phrases,
    list_true_phrases,
)
from experiments.training.shapes.dataset import pick

PAIRS, PICTURES = 64, 48
"""A batch: so many pairs of pictures for CLIP, so many pictures for BLIP."""
QUESTIONS = 3
"""Asked of every picture and step: so many with the answer yes, and as many with no."""
WARMUP = 100
DECAY = 0.998
"""Of the average of the weights, which is what is kept."""


def fit(
    network: nn.Module,
    head: nn.Module,
    loss: Callable[[], Tensor],
    seconds: float,
    learning_rate: float,
    name: str,
) -> dict[str, Any]:
    """Trains in place; `loss` draws a batch and judges it. Ends with the average of the weights.

    Returns:
        A record: steps, seconds, the running mean of the loss.
    """
    optimizer = torch.optim.AdamW(
        [*network.parameters(), *head.parameters()],
        learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    average = {key: value.detach().clone() for key, value in network.state_dict().items()}
    start, step, mean = time.perf_counter(), 0, math.nan
    while (progress := (time.perf_counter() - start) / seconds) < 1:
        warmth = min(1.0, (step + 1) / WARMUP)
        rate = learning_rate * warmth * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss()
        optimizer.zero_grad()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for key, fresh in network.state_dict().items():
                if fresh.is_floating_point():
                    average[key].lerp_(fresh, 1 - min(DECAY, step / (step + 10)))
        mean = value.item() if step == 1 else mean + 0.02 * (value.item() - mean)
        if step % 50 == 0:
            passed = time.perf_counter() - start
            print(f"{name} step {step} loss {mean:.4f} {passed:.0f} s", flush=True)
    network.load_state_dict(average)
    return {"steps": step, "seconds": round(time.perf_counter() - start), "loss": round(mean, 4)}


def normalise(pictures: Tensor) -> Tensor:
    """uint8 to the network's range."""
    mean, std = (torch.tensor(NORMAL[key])[:, None, None] for key in ("mean", "std"))
    return (pictures / 255 - mean) / std


def train_clip(
    network: Network, pool: Pool, seconds: float, generator: torch.Generator
) -> dict[str, Any]:
    """Contrastive: each picture finds its prompt among the batch's, and each prompt its picture.
    The batch holds pairs that differ in one thing; equal prompts are both right. Patches say what
    they show beside it."""
    from asyndm.shapes.model import build_tokenizer

    pairs, texts = len(pool.asked) // 2, [spec.text for spec in pool.asked]
    settings = {"padding": "max_length", "max_length": network.context_length}
    tokens = build_tokenizer()(texts, **settings, return_tensors="pt")["input_ids"]
    head = nn.Linear(WIDTH, len(CONTENTS))

    def loss() -> Tensor:
        first = 2 * torch.randint(pairs, (PAIRS,), generator=generator)
        rows = torch.stack([first, first + 1], 1).flatten()
        pooled, patches = network.visual(normalise(pool.pictures[rows]))
        seen = F.normalize(pooled, dim=-1)
        read = F.normalize(network.encode_text(tokens[rows]), dim=-1)
        logits = network.logit_scale.exp().clamp(max=100) * seen @ read.T
        batch = [texts[row] for row in rows.tolist()]
        same = torch.tensor([[a == b for b in batch] for a in batch], dtype=torch.float32)
        target = same / same.sum(1, keepdim=True)
        named = F.cross_entropy(head(patches).flatten(0, 1), pool.contents[rows].flatten())
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2 + named

    network.visual.output_tokens = True
    record = fit(network, head, loss, seconds, 1e-3, "clip")
    network.visual.output_tokens = False
    return record


class Question(NamedTuple):
    """About the picture of a row of the batch: its tokens, and the index of the right answer."""

    row: int
    tokens: list[int]
    answer: int


def train_blip(
    network: Network, tokenizer: Any, pool: Pool, seconds: float, generator: torch.Generator
) -> dict[str, Any]:
    """For each picture, phrases that hold and phrases that do not; the answer's first token is
    judged."""
    ids = tokenizer.convert_tokens_to_ids
    answers = torch.tensor([ids("yes"), ids("no")])
    head = nn.Linear(WIDTH, len(CONTENTS))

    def draw_questions(specs: list[Spec]) -> list[Question]:
        drawn = []
        for row, spec in enumerate(specs):
            good, bad = list_true_phrases(spec), list_false_phrases(spec)
            asked = [(pick(good, generator), 0) for _ in range(QUESTIONS)]
            asked += [(pick(pick(bad, generator), generator), 1) for _ in range(QUESTIONS)]
            for phrase, answer in asked:
                tokens = [ids("[ENC]"), *ids(f"{phrase} ? [SEP]".split())]
                drawn.append(Question(row, tokens, answer))
        return drawn

    def loss() -> Tensor:
        rows = torch.randint(len(pool.drawn), (PICTURES,), generator=generator)
        asked = draw_questions([pool.drawn[row] for row in rows.tolist()])
        seen = network.vision_model(normalise(pool.pictures[rows])).last_hidden_state
        total = torch.zeros(())
        named = F.cross_entropy(head(seen[:, 1:]).flatten(0, 1), pool.contents[rows].flatten())
        # questions of one length at a time: without padding there is nothing to mask
        for length in {len(question.tokens) for question in asked}:
            group = [question for question in asked if len(question.tokens) == length]
            tokens = torch.tensor([question.tokens for question in group])
            pictures = seen[[question.row for question in group]]
            logits = compute_first_logits(network, pictures, tokens, ids("[DEC]"))
            wanted = answers[[question.answer for question in group]]
            total = total + F.cross_entropy(logits, wanted, reduction="sum")
        return total / len(asked) + named

    return fit(network, head, loss, seconds, 1e-3, "blip_vqa")
