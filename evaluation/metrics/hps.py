"""HPS v2.1 (arXiv 2306.09341): how much people prefer a picture for a prompt, by a CLIP trained on
their choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL.Image import Image

from asyndm.errors import UserError
from evaluation.metrics import ModelMetric, Score
from evaluation.metrics.clip_score import CLIPScore
from evaluation.networks.weights import find_weights_file
from evaluation.runs.prompts import Prompt

FILE = "HPS_v2.1_compressed.pt"


@dataclass(eq=False)
class HPS(ModelMetric[CLIPScore]):
    """cos(picture, prompt), by open_clip; prompts are cut at the model's length, their end token
    kept.

    The original computes in mixed half precision on a GPU; here it is float32 unless `dtype` says
    otherwise.

    Attributes:
        model: open_clip's name of the architecture, ViT-H-14.
        pretrained: its weights: ORG/NAME of the hub, the authors' ``HPS_v2.1_compressed.pt``, or
            its folder.
        revision: of the weights on the hub.
        resize_mode: the longest side of a picture is resized to the model's, and black is added
            around to a square, as the original does; a CLIPScore crops instead.

    Raises:
        UserError: unknown dtype.
    """

    pretrained: str = "xswu/HPSv2"
    name = "hps_v21"
    models = ("model", "pretrained")
    resize_mode: ClassVar[str] = "longest"

    def check_weights(self) -> None:
        import open_clip

        if self.model not in open_clip.list_models():
            raise UserError(
                f"metric hps_v21: model={self.model}: open_clip knows no model of that name; "
                "choose ViT-H-14 and name the weights by pretrained"
            )
        self._file()

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        return [Score.of(value) for value in self.loaded.cosines(images, [p.text for p in prompts])]

    def load(self) -> CLIPScore:
        """A CLIPScore of these weights that sees pictures whole."""
        import open_clip

        clip = CLIPScore(
            self.model, dtype=self.dtype, device=self.device, pretrained=str(self._file())
        )
        try:
            loaded = clip.load()
        except UserError as error:
            raise UserError(f"metric hps_v21: pretrained={self.pretrained}: {error}") from error
        prepare = open_clip.image_transform(
            loaded.network.visual.image_size, is_train=False, resize_mode=self.resize_mode
        )
        clip.loaded = loaded._replace(prepare=prepare)
        return clip

    def _file(self) -> Path:
        return find_weights_file("metric hps_v21: pretrained", self.pretrained, FILE, self.revision)
