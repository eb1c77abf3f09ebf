"""PickScore (arXiv 2305.01569): how likely people pick a picture for a prompt, by a CLIP trained on
their picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from asyndm.protocols import Network
from evaluation.metrics import ModelMetric, Score
from evaluation.networks.pretrained import Part, load_network, load_part
from evaluation.runs.prompts import Prompt


@dataclass(eq=False)
class PickScore(ModelMetric[tuple[Network, Part, Part]]):
    """exp(logit scale) · cos(picture, prompt), by a CLIP of transformers; prompts are cut at the
    model's length.

    Attributes:
        processor: folder or hub id of its tokenizer and picture transform; None: the model's own.
    """

    processor: str | None = None
    name = "pick_score"
    models = ("model", "processor")

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        import torch
        from torch.nn import functional as F

        network, prepare, tokenizer = self.loaded
        words = tokenizer(
            [prompt.text for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.where)
        colours = [image.convert("RGB") for image in images]
        pixels = prepare(images=colours, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            seen = network.get_image_features(
                pixels.to(self.where, self.precision)
            ).pooler_output.float()
            read = network.get_text_features(**words).pooler_output.float()
            cosine = (F.normalize(seen, dim=-1) * F.normalize(read, dim=-1)).sum(-1)
            values = (network.logit_scale.float().exp() * cosine).tolist()
        return [Score.of(value) for value in values]

    def load(self) -> tuple[Network, Part, Part]:
        """Network, picture transform and tokenizer."""
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        source, at = (
            (self.processor, None) if self.processor is not None else (self.model, self.revision)
        )
        place = f"metric pick_score: model={self.model}"
        network = load_network(
            CLIPModel, self.model, place, revision=self.revision, dtype=self.precision
        )
        prepare = load_part(CLIPImageProcessor, source, place, revision=at)
        tokenizer = load_part(CLIPTokenizer, source, place, revision=at)
        return network.to(self.where), prepare, tokenizer
