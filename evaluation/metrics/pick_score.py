"""PickScore (arXiv 2305.01569): how likely people pick a picture for a prompt, by a CLIP trained on their picks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL.Image import Image

from asyndm.errors import UserError, one_line
from asyndm.prompts import Prompt
from evaluation.metrics import Metric, Score


class PickScore(Metric):
    """exp(logit scale) · cos(picture, prompt), by a CLIP of transformers; prompts are cut at the model's length.

    Args:
        model: a folder or hub id.
        processor: folder or hub id of its tokenizer and picture transform; None: the model's own.
        revision: of the model, on the hub.
        device: cpu, cuda, or auto.
    """

    name = "pick_score"

    def __init__(
        self, model: str, processor: str | None = None, revision: str | None = None, device: str = "auto"
    ) -> None:
        self.model, self.processor, self.revision, self.device = model, processor, revision, device

    @property
    def basis(self) -> dict[str, Any]:
        return {"version": self.version, "model": self.model, "revision": self.revision}

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        _load(self.model, self.processor, self.revision)

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        import torch
        from torch.nn import functional as F

        from asyndm.models import choose_device

        network, prepare, tokenizer = _load(self.model, self.processor, self.revision)
        where = choose_device(self.device)
        network.to(where)
        length = network.config.text_config.max_position_embeddings
        words = tokenizer(
            [prompt.text for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        pixels = prepare(images=[image.convert("RGB") for image in images], return_tensors="pt")
        with torch.no_grad():
            seen = network.get_image_features(pixels["pixel_values"].to(where)).pooler_output
            read = network.get_text_features(**words.to(where)).pooler_output
            cosine = (F.normalize(seen.float(), dim=-1) * F.normalize(read.float(), dim=-1)).sum(-1)
            values = (network.logit_scale.exp() * cosine).tolist()
        return [Score.of(value) for value in values]


@lru_cache(maxsize=1)
def _load(model: str, processor: str | None, revision: str | None) -> tuple[Any, Any, Any]:
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    source, at = (processor, None) if processor is not None else (model, revision)
    try:
        network = CLIPModel.from_pretrained(model, revision=revision, dtype=torch.float32)
        prepare = CLIPImageProcessor.from_pretrained(source, revision=at)
        tokenizer = CLIPTokenizer.from_pretrained(source, revision=at)
    except Exception as error:  # transformers and the hub raise many kinds for a bad checkpoint
        raise UserError(f"metric pick_score: model={model}: {one_line(error)}") from error
    return network.eval().requires_grad_(False), prepare, tokenizer
