"""BLIP-VQA: does the picture show each of the prompt's noun phrases? As T2I-CompBench (arXiv
2307.06350) defines it.

For each phrase the question "{phrase}?" is put to BLIP's question answering: one step of its
decoder gives P = p(yes) / (p(yes) + p(no)). The score is the product over the phrases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from asyndm.errors import UserError, is_whole
from evaluation.metrics import ModelMetric, Score
from evaluation.runs.prompts import Prompt

if TYPE_CHECKING:
    from evaluation.networks.blip import VQA

MOST = 8
"""Phrases of a prompt that are asked about; further ones are left out."""
PLACES = frozenset({"top", "the side", "the left", "the right"})
"""Phrases that name no thing."""
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(eq=False)
class BLIPVQA(ModelMetric["VQA"]):
    """The product of BLIP's P(yes) for every noun phrase, each rounded to 4 decimals, and so is the
    product.

    `reason` lists the phrases with their P. A picture is encoded once, whatever the number of its
    phrases; questions of one length are asked together, without padding, which transformers'
    decoder would not mask.

    Attributes:
        model: a folder or hub id of transformers, or the original authors' ``.pth``; "shapes" for
            that of the shapes world.
        tokenizer: folder or hub id of its tokenizer; None: the model's own.
        image_size: pixels a side to which pictures are squashed; 480 in the definition.
    """

    tokenizer: str | None = None
    image_size: int = 480
    embedded = "blip_vqa"
    models = ("model", "tokenizer")

    def __post_init__(self) -> None:
        self.name = "blip_vqa_shapes" if self.model == "shapes" else "blip_vqa"
        super().__post_init__()
        if not is_whole(self.image_size) or self.image_size < 1:
            raise UserError(
                f"metric {self.name}: image_size={self.image_size}: "
                "must be a whole number of pixels"
            )

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        if prompts and not any(list_questions(prompt) for prompt in prompts):
            raise UserError(
                f"metric {self.name}: prompt {prompts[0].text!r} has no phrases to ask about, nor "
                "has any other: "
                "give phrases in the prompt file, or find them with python -m evaluation.phrases"
            )
        super().check(prompts, size)
        if self.model.endswith(".pth") and self.tokenizer is None:
            raise UserError(
                f"metric {self.name}: a .pth has no tokenizer: "
                "give one (google-bert/bert-base-uncased)"
            )

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Score]:
        asked = [list_questions(prompt) for prompt in prompts]
        rows = [row for row, own in enumerate(asked) if own]
        pairs = [(place, question) for place, row in enumerate(rows) for question in asked[row]]
        answers = iter(self._answers([images[row] for row in rows], pairs) if rows else ())
        return [_score([(question, next(answers)) for question in own]) for own in asked]

    def _answers(
        self, images: Sequence[Image.Image], pairs: Sequence[tuple[int, str]]
    ) -> list[float]:
        """P(yes) of each (place among the images, question)."""
        import torch

        from evaluation.networks.blip import compute_first_logits

        vqa, where = self.loaded, self.where
        network = vqa.network
        tokens = [
            vqa.tokenizer(question, truncation=True, max_length=35)["input_ids"]
            for _, question in pairs
        ]
        found = [0.0] * len(pairs)
        with torch.no_grad():
            pixels = torch.from_numpy(
                np.stack([prepare_image(image, self.image_size) for image in images])
            )
            seen = network.vision_model(pixels.to(where, self.precision)).last_hidden_state
            for length in sorted({len(ids) for ids in tokens}):
                group = [i for i, ids in enumerate(tokens) if len(ids) == length]
                ids = torch.tensor([[vqa.enc, *tokens[i][1:]] for i in group], device=where)
                logits = compute_first_logits(
                    network, seen[[pairs[i][0] for i in group]], ids, vqa.dec
                )
                for i, yes in zip(
                    group,
                    logits[:, [vqa.yes, vqa.no]].float().softmax(-1)[:, 0].tolist(),
                    strict=True,
                ):
                    found[i] = yes
        return found

    def load(self) -> VQA:
        """Network and tokenizer."""
        from evaluation.networks.blip import load_vqa

        try:
            vqa = load_vqa(self.model, self.tokenizer, self.revision, self.image_size)
        except UserError as error:
            raise UserError(f"metric {self.name}: {error}") from error
        vqa.network.to(self.where, self.precision)
        return vqa


def list_questions(prompt: Prompt) -> list[str]:
    """What is asked of a prompt's pictures: its phrases but places, cleaned as BLIP cleans
    questions."""
    phrases = [phrase for phrase in prompt.phrases if phrase not in PLACES][:MOST]
    return [re.sub(r"[.!\"()*#:;~]", "", f"{phrase}?".lower()).rstrip(" ") for phrase in phrases]


def prepare_image(image: Image.Image, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(3, size, size): squashed bicubically, normalised as CLIP's pictures are."""
    squashed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(squashed, dtype=np.float32) / 255
    normal = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _score(answers: Sequence[tuple[str, float]]) -> Score:
    if not answers:
        return Score(None, "no phrases to ask about")
    rounded = [(question, round(value, 4)) for question, value in answers]
    value = round(math.prod(answer for _, answer in rounded), 4)
    return Score.of(value, "; ".join(f"{question} {answer:.4f}" for question, answer in rounded))
