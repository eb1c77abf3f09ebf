"""CLIPScore: how well picture and prompt agree in CLIP's eyes, through open_clip, in the
literature's conventions.

Four numbers of the literature go by this name; they differ in model, prefix and scale and are never
comparable. Each is a named convention here, and the name of its scores says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from asyndm.errors import UserError
from evaluation.metrics import ModelMetric, Score
from evaluation.networks.open_clip import (
    OpenCLIP,
    check_open_clip,
    load_open_clip,
    name_architecture,
)
from evaluation.runs.prompts import Prompt

LOCAL = "local-dir:"


@dataclass(frozen=True)
class Convention:
    """scale · cos(image, prefix + prompt), with `clamp` not below 0."""

    scale: float = 1.0
    prefix: str = ""
    clamp: bool = False


CONVENTIONS = {
    "original": Convention(2.5, "A photo depicts ", clamp=True),
    "torchmetrics": Convention(100.0),
    "compbench": Convention(),
    "authors": Convention(),
    "shapes": Convention(),
}
"""original: arXiv 2104.08718, ViT-B-32. torchmetrics: its CLIPScore, which clamps the final mean
only. compbench: T2I-CompBench, ViT-B-32, without its --complex. authors: the AsynDM authors'
sibling projects, ViT-H-14 of LAION-2B.
shapes: the small CLIP of the shapes world."""


@dataclass(eq=False)
class CLIPScore(ModelMetric[OpenCLIP]):
    """Cosine of CLIP's features of picture and prompt, by a convention.

    Prompts longer than the model reads are cut, their end token kept.

    Attributes:
        model: of open_clip: a name, "hf-hub:ORG/REPO", or a folder with or without "local-dir:"
            before it; "shapes" for that of the shapes world.
        pretrained: the weights' tag or file, for a plain name; it takes the place of a revision.
            With a tag the activation is the one the weights were trained with; a file's is that of
            the name (ViT-B-32-quickgelu).
        convention: one of `CONVENTIONS`.

    Raises:
        UserError: unknown convention, or a revision.
    """

    pretrained: str | None = None
    convention: str = "original"
    embedded = "clip"
    models = ("model", "pretrained")

    def __post_init__(self) -> None:
        self.name = f"clip_{self.convention}"
        self.model = self.model.removeprefix(LOCAL)
        super().__post_init__()
        if self.convention not in CONVENTIONS:
            raise UserError(
                f"metric clip: convention={self.convention}: choose from "
                f"{', '.join(sorted(CONVENTIONS))}"
            )
        if self.revision is not None:
            raise UserError(
                f"metric {self.name}: revision={self.revision}: open_clip has none; name weights "
                "by tag"
            )

    @property
    def basis(self) -> dict[str, Any]:
        named = name_architecture(self.model, self.pretrained)
        return super().basis if named == self.model else {**super().basis, "model": named}

    def check_weights(self) -> None:
        try:
            check_open_clip(self.model, self.pretrained)
        except UserError as error:
            raise UserError(f"metric {self.name}: {error}") from error

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        rule = CONVENTIONS[self.convention]
        values = [
            rule.scale * cosine
            for cosine in self.cosines(images, [rule.prefix + p.text for p in prompts])
        ]
        return [Score.of(max(0.0, value) if rule.clamp else value) for value in values]

    def cosines(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """cos(image, text) of each pair."""
        import torch
        from torch.nn import functional as F

        network, prepare, tokenize = self.loaded
        pixels = torch.stack([prepare(image.convert("RGB")) for image in images])
        with torch.no_grad():
            seen = network.encode_image(pixels.to(self.where, self.precision)).float()
            read = network.encode_text(tokenize(list(texts)).to(self.where)).float()
            found: list[float] = (
                (F.normalize(seen, dim=-1) * F.normalize(read, dim=-1)).sum(-1).tolist()
            )
        return found

    def load(self) -> OpenCLIP:
        """Network, picture transform and tokenizer."""
        return load_open_clip(self.model, self.pretrained, self.where, self.precision)
