"""CLIPScore: how well picture and prompt agree in CLIP's eyes, through open_clip, in the literature's conventions.

Four numbers go by this name; they differ in model, prefix and scale and are never comparable. Each is a named
convention here, and the name of its scores says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL.Image import Image

from asyndm.errors import UserError, first_line
from asyndm.prompts import Prompt
from evaluation.metrics import Metric, Score

LOCAL = "local-dir:"
FILES = ("open_clip_config.json", "open_clip_model.safetensors")


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
}
"""original: arXiv 2104.08718, ViT-B-32. torchmetrics: its CLIPScore, which clamps the final mean only. compbench:
T2I-CompBench, ViT-B-32. authors: the AsynDM authors' sibling projects, ViT-H-14 of LAION-2B."""


class CLIPScore(Metric):
    """Cosine of CLIP's features of picture and prompt, by a convention.

    Prompts longer than the model reads are cut, their end token kept.

    Args:
        model: of open_clip: a name, "hf-hub:ORG/REPO", or "local-dir:FOLDER".
        pretrained: the weights' tag or file, for a plain name.
        convention: one of `CONVENTIONS`.
        device: cpu, cuda, or auto.

    Raises:
        UserError: unknown convention.
    """

    def __init__(
        self, model: str, pretrained: str | None = None, convention: str = "original", device: str = "auto"
    ) -> None:
        if convention not in CONVENTIONS:
            raise UserError(
                f"metric clip: convention={convention}: choose from {', '.join(sorted(CONVENTIONS))}"
            )
        self.name = f"clip_{convention}"
        self.model, self.pretrained, self.convention, self.device = model, pretrained, convention, device

    @property
    def basis(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "convention": self.convention,
            "model": self.model,
            "pretrained": self.pretrained,
        }

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        if (folder := _folder(self.model)) is not None:
            for name in FILES:
                if not (folder / name).is_file():
                    raise UserError(f"metric {self.name}: model={self.model}: no {name} there")
            return
        import open_clip

        if self.model.startswith("hf-hub:"):
            wanted = {"hf_hub": self.model.removeprefix("hf-hub:")}
        else:
            wanted = open_clip.get_pretrained_cfg(self.model, self.pretrained or "")
            if not wanted and not (self.pretrained and Path(self.pretrained).is_file()):
                raise UserError(
                    f"metric {self.name}: open_clip knows no weights {self.pretrained!r} of the model {self.model!r}"
                )
        try:
            open_clip.download_pretrained(wanted)
        except Exception as error:  # whatever the hub or the network raises
            raise UserError(
                f"metric {self.name}: the weights of {self.model} are not in the local cache and cannot be fetched "
                f"({first_line(error)}); give model=local-dir:FOLDER"
            ) from error

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        import torch
        from torch.nn import functional as F

        from asyndm.models import choose_device

        rule, where = CONVENTIONS[self.convention], choose_device(self.device)
        model, preprocess, tokenizer = _load(self.model, self.pretrained)
        pixels = torch.stack([preprocess(image.convert("RGB")) for image in images])
        tokens = tokenizer([rule.prefix + prompt.text for prompt in prompts])
        model.to(where)
        with torch.no_grad():
            seen = F.normalize(model.encode_image(pixels.to(where)).float(), dim=-1)
            read = F.normalize(model.encode_text(tokens.to(where)).float(), dim=-1)
        values = rule.scale * (seen * read).sum(-1)
        return [Score.of(max(0.0, value) if rule.clamp else value) for value in values.tolist()]


def _folder(model: str) -> Path | None:
    """The folder of a model on this disk; None for one that open_clip fetches."""
    return Path(model.removeprefix(LOCAL)).expanduser() if model.startswith(LOCAL) else None


@lru_cache(maxsize=2)
def _load(model: str, pretrained: str | None) -> tuple[Any, Any, Any]:
    """Network, picture transform and tokenizer, in float32; kept for the next runs of a sweep."""
    import open_clip

    folder = _folder(model)
    source = model if folder is None else f"{LOCAL}{folder}"
    network, _, preprocess = open_clip.create_model_and_transforms(
        source, pretrained=None if ":" in source else pretrained
    )
    return network.eval().requires_grad_(False), preprocess, open_clip.get_tokenizer(source)
