"""BERTScore (arXiv 1904.09675) of a caption and the prompt: a vision-language model says what it
sees, and a text model compares that with what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from asyndm.errors import UserError
from asyndm.protocols import Network
from evaluation.metrics import Score
from evaluation.metrics.vision_language import VisionLanguage, VisionLanguageMetric
from evaluation.networks import weights
from evaluation.networks.pretrained import Part, load_network, load_part
from evaluation.runs.prompts import Prompt

LONGEST = 512
"""Tokens of a text that are compared, unless its model takes fewer."""


@dataclass(eq=False)
class BERTScore(VisionLanguageMetric[tuple[VisionLanguage, Network, Part]]):
    """F = 2PR / (P + R), as torchmetrics computes it, without idf weights and without rescaling by
    a baseline.

    With x_i and y_j the hidden states of caption and prompt after `num_layers` layers, scaled to
    length 1, without those of the marks of beginning and end (to which the original package gives
    no weight, but lets words match them): P = mean_i max_j max(x_i · y_j, 0), R = mean_j max_i
    max(x_i · y_j, 0). Pairs are compared one by one: torchmetrics 1.9 returns the scores of several
    in another order than theirs. The text model computes in float32, whatever `dtype` is. `reason`
    is the caption, which is decoded greedily.

    Attributes:
        model: the captioner.
        instruction: what it is asked for.
        max_new_tokens: after which the caption is cut.
        text_model: folder or hub id of the model that compares, an encoder with marks of beginning
            and end.
        num_layers: how many of its layers; None: all. Usual are 17 for roberta-large, 40 for
            deberta-xlarge-mnli.

    Raises:
        UserError: captions of no tokens, unknown dtype.
    """

    instruction: str = "Describe this image in one sentence."
    max_new_tokens: int = 64
    text_model: str = "FacebookAI/roberta-large"
    num_layers: int | None = 17
    name = "bert_score"
    models = ("model", "text_model")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length(self.max_new_tokens)

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        try:
            weights.check_weights(self.text_model, None)
        except UserError as error:
            raise UserError(f"metric bert_score: text_{error}") from error
        self._check_layers()
        super().check(prompts, size)

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        captions = self.loaded[0].answers(
            images, [self.instruction] * len(images), self.max_new_tokens
        )
        return [
            self._score(caption, prompt) for caption, prompt in zip(captions, prompts, strict=True)
        ]

    def _score(self, caption: str | None, prompt: Prompt) -> Score:
        if caption is None:
            return Score.of(math.nan)
        if not caption:
            return Score(None, "empty caption")
        return Score.of(self.similarity(caption, prompt.text), caption)

    def similarity(self, caption: str, text: str) -> float:
        """F of two texts; NaN where the text model gives no numbers, for which torchmetrics would
        say 0."""
        from torchmetrics.functional.text.bert import bert_score

        _, network, tokenizer = self.loaded
        found: dict[str, Any] = bert_score(
            [caption],
            [text],
            model=network,
            user_tokenizer=tokenizer,
            num_layers=self.num_layers or network.config.num_hidden_layers,
            max_length=min(tokenizer.model_max_length, LONGEST),
            truncation=True,
            batch_size=1,
            device=self.where,
        )
        no_number = math.isnan(float(found["precision"] + found["recall"]))
        return math.nan if no_number else float(found["f1"])

    def load(self) -> tuple[VisionLanguage, Network, Part]:
        """The captioner; the text model and its tokenizer."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        place = f"metric bert_score: text_model={self.text_model}"
        tokenizer = load_part(AutoTokenizer, self.text_model, place, padding_side="right")
        network = load_network(
            AutoModel, self.text_model, place, optional=("pooler.",), dtype=torch.float32
        )
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise UserError(
                f"{place}: its tokenizer marks no beginning and end; choose a BERT or RoBERTa"
            )
        return self.load_model(), network.to(self.where), tokenizer

    def _check_layers(self) -> None:
        """Refuses more layers than the text model has, before it is loaded."""
        from transformers import AutoConfig

        place = "metric bert_score"
        config = load_part(AutoConfig, self.text_model, f"{place}: text_model={self.text_model}")
        most = config.num_hidden_layers
        if self.num_layers is not None and not 1 <= self.num_layers <= most:
            raise UserError(
                f"{place}: num_layers={self.num_layers}: {self.text_model} has {most} layers"
            )
