"""ImageReward (arXiv 2304.05977): how much people like a picture for a prompt, by a BLIP trained on
their rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from asyndm.errors import UserError, join_lines
from asyndm.protocols import Network
from evaluation.metrics import ModelMetric, Score
from evaluation.metrics.blip_vqa import DEVIATION, MEAN
from evaluation.networks.pretrained import Part
from evaluation.networks.weights import check_settings, find_weights_file
from evaluation.runs.prompts import Prompt

FILE = "ImageReward.pt"
REWARD_MEAN, REWARD_DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the raw rewards; the original code's constants, no part of its file."""
LONGEST = 35
"""Tokens of a prompt, [CLS] and [SEP] among them, to which all prompts are cut or padded."""


@dataclass(eq=False)
class ImageReward(ModelMetric[tuple[Network, Part, Part]]):
    """(r - mean) / deviation with r = head(t): t is the [CLS] feature of BLIP's text encoder, which
    reads the prompt and attends to the picture; the head is five linear layers without activations,
    always in float32.

    Of a picture the central square is seen, its side resized to the model's (224).

    Attributes:
        model: ORG/NAME of the hub, the authors' ``ImageReward.pt``, or its folder.
        tokenizer: folder or hub id of BERT's tokenizer; the file has none.
    """

    tokenizer: str = "google-bert/bert-base-uncased"
    name = "image_reward"
    models = ("model", "tokenizer")

    def check_weights(self) -> None:
        self._file()
        try:
            check_settings(self.tokenizer)
        except UserError as error:
            raise UserError(f"metric image_reward: tokenizer={self.tokenizer}: {error}") from error

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        import torch

        network, prepare, tokenizer = self.loaded
        words = tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        ).to(self.where)
        pixels = torch.stack([prepare(image.convert("RGB")) for image in images])
        with torch.no_grad():
            seen = network["vision_model"](pixels.to(self.where, self.precision)).last_hidden_state
            read = network["text_encoder"](
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
                encoder_hidden_states=seen,
            ).last_hidden_state
            rewards = network["mlp"]["layers"](read[:, 0].float())[:, 0]
            values = ((rewards - REWARD_MEAN) / REWARD_DEVIATION).tolist()
        return [Score.of(value) for value in values]

    def load(self) -> tuple[Network, Part, Part]:
        """Network, picture transform and tokenizer."""
        from torchvision import transforms
        from transformers import BertTokenizer

        from evaluation.networks.blip import load_reward

        file = self._file()
        try:
            network = load_reward(file)
            tokenizer = BertTokenizer.from_pretrained(self.tokenizer)
        except Exception as error:  # transformers, torch and the hub raise many kinds of them
            said = f"no weights {error}" if isinstance(error, KeyError) else join_lines(error)
            raise UserError(f"metric image_reward: model={self.model}: {said}") from error
        side = network["vision_model"].config.image_size
        prepare = transforms.Compose(
            [
                transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(side),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        )
        for tower in ("vision_model", "text_encoder"):
            network[tower].to(self.precision)
        return network.to(self.where), prepare, tokenizer

    def _file(self) -> Path:
        return find_weights_file("metric image_reward: model", self.model, FILE, self.revision)
