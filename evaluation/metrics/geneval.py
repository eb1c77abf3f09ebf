"""GenEval (arXiv 2310.11513): does the picture show the right objects, as many, of that colour, in
that place?

The rules are the original's (`evaluation.metrics.geneval_rules`), the eyes are not: it detects with
Mask2Former of mmdetection 2, which does not install today, and greys what its masks leave out
before it asks CLIP for a colour. Here a detector of transformers gives boxes, and the colour is
asked of the whole box. **Values are not comparable with published GenEval numbers**, only with each
other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from asyndm.errors import UserError, check_fraction, is_number, is_whole
from asyndm.protocols import Network
from evaluation.metrics import ModelMetric, Score
from evaluation.metrics.geneval_rules import (
    COLOURS,
    Box,
    Detection,
    Meaning,
    Objects,
    find_faults,
    keep_surest,
    list_to_colour,
    normalize_class,
    read_meanings,
)
from evaluation.networks.open_clip import (
    OpenCLIP,
    check_open_clip,
    load_open_clip,
    name_architecture,
)
from evaluation.networks.pretrained import Part, load_network, load_part
from evaluation.networks.weights import check_weights
from evaluation.runs.prompts import Prompt

if TYPE_CHECKING:
    import torch

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
"""What a colour of an object is called, for CLIP."""


@dataclass(eq=False, kw_only=True)
class GenEval(ModelMetric[tuple[Network, Part]]):
    """1 where a picture is right, else 0 with what is wrong; pictures of prompts without metadata
    have no value.

    The meaning of a prompt is found by its text. Overlapping detections of one class all count, as
    by default in the original.

    Attributes:
        model: an object detector of transformers that decodes to boxes by itself (RT-DETR, DETR,
            YOLOS and the like), trained on COCO's classes.
        metadata: path of GenEval's ``evaluation_metadata.jsonl``.
        colour_model: of open_clip, which names colours: a name, "hf-hub:ORG/REPO", or a folder.
        colour_pretrained: its weights' tag or file, for a plain name.
        threshold: detections count where they are surer than this.
        counting_threshold: the same for prompts of the tag "counting".
        max_objects: of each class, the surest so many count.
        position_threshold: how far centres must be apart, as a share of both sizes, before a
            relation begins.

    Raises:
        UserError: a threshold out of its range.
    """

    metadata: str | None = None
    colour_model: str = "ViT-L-14-quickgelu"
    colour_pretrained: str | None = "openai"
    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    position_threshold: float = 0.1
    name = "geneval"
    models = ("model", "metadata", "colour_model", "colour_pretrained")

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("threshold", "counting_threshold"):
            check_fraction(getattr(self, setting), f"metric geneval: {setting}")
        if not is_whole(self.max_objects) or self.max_objects < 1:
            raise UserError(
                f"metric geneval: max_objects must be 1 or more, got {self.max_objects!r}"
            )
        if not is_number(self.position_threshold) or not 0 <= self.position_threshold < math.inf:
            raise UserError(
                "metric geneval: "
                f"position_threshold must be 0 or more, got {self.position_threshold!r}"
            )

    @property
    def basis(self) -> dict[str, Any]:
        named = name_architecture(self.colour_model, self.colour_pretrained)
        return (
            super().basis
            if named == self.colour_model
            else {**super().basis, "colour_model": named}
        )

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        self.check_device()
        meanings = [
            found for prompt in prompts if (found := self._find_meaning(prompt)) is not None
        ]
        if not meanings:
            raise UserError(
                f"metric geneval: metadata={self.metadata}: none of the prompts is there; "
                "choose prompt_set=geneval, or another metric"
            )
        things = [thing for meaning in meanings for thing in (*meaning.include, *meaning.exclude)]
        try:
            check_weights(self.model, self.revision)
            known = set(_list_classes(self._load_config()).values())
            for thing in things:
                if normalize_class(thing.name) not in known:
                    raise UserError(
                        f"model={self.model}: the detector knows no {thing.name!r}; "
                        "choose one trained on COCO's classes"
                    )
        except UserError as error:
            raise UserError(f"metric geneval: {error}") from error
        if any(thing.colour for thing in things):
            try:
                check_open_clip(self.colour_model, self.colour_pretrained)
            except UserError as error:
                raise UserError(f"metric geneval: colour_model: {error}") from error

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Score]:
        scores = [Score(None, "no GenEval metadata for this prompt") for _ in prompts]
        meanings = {
            row: m
            for row, prompt in enumerate(prompts)
            if (m := self._find_meaning(prompt)) is not None
        }
        seen = self.detect([images[row] for row in meanings]) if meanings else []
        objects: dict[int, Objects] = {}
        for (row, meaning), detections in zip(meanings.items(), seen, strict=True):
            scores[row] = Score.of(math.nan)
            if detections is not None:
                objects[row] = keep_surest(
                    detections, self._lowest_score(meaning), self.max_objects
                )
        for row, colours in self._name_colours(images, meanings, objects).items():
            if all(colours.values()):
                wrong = find_faults(meanings[row], objects[row], colours, self.position_threshold)
                scores[row] = Score(float(not wrong), "; ".join(wrong))
        return scores

    def _name_colours(
        self,
        images: Sequence[Image.Image],
        meanings: Mapping[int, Meaning],
        objects: Mapping[int, Objects],
    ) -> dict[int, dict[tuple[str, Detection], str]]:
        """The colours that `find_faults` needs, of each picture with objects; asked of all
        pictures at once."""
        asked = {row: list_to_colour(meanings[row], own) for row, own in objects.items()}
        crops = [
            (name, crop(images[row], found.box))
            for row, pairs in asked.items()
            for name, found in pairs
        ]
        answers = iter(self.colours.of(crops) if crops else ())
        return {row: {pair: next(answers) for pair in pairs} for row, pairs in asked.items()}

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection] | None]:
        """What the detector finds, down to the lower threshold; None where it gives no numbers.
        Pictures of one prepared size go together: padding would change what some detectors see."""
        import torch

        network, prepare = self.loaded
        names, floor = _list_classes(network.config), min(self.threshold, self.counting_threshold)
        pixels = [
            prepare(images=i.convert("RGB"), return_tensors="pt")["pixel_values"][0] for i in images
        ]
        found: list[list[Detection] | None] = [None] * len(images)
        for shape in sorted({tuple(one.shape) for one in pixels}):
            group = [i for i, one in enumerate(pixels) if one.shape == shape]
            with torch.no_grad():
                seen = network(
                    pixel_values=torch.stack([pixels[i] for i in group]).to(
                        self.where, self.precision
                    )
                )
            seen.logits, seen.pred_boxes = seen.logits.float().cpu(), seen.pred_boxes.float().cpu()
            sound = torch.cat([seen.logits, seen.pred_boxes], dim=-1).isfinite().flatten(1).all(1)
            decoded = prepare.post_process_object_detection(
                seen,
                threshold=floor,
                target_sizes=[(images[i].height, images[i].width) for i in group],
            )
            for i, whole, own in zip(group, sound.tolist(), decoded, strict=True):
                values = (own[key].tolist() for key in ("labels", "scores", "boxes"))
                if whole:
                    found[i] = [
                        Detection(names.get(n, ""), s, tuple(b))
                        for n, s, b in zip(*values, strict=True)
                    ]
        return found

    @cached_property
    def colours(self) -> Colours:
        """CLIP, loaded when the first colour is asked for."""
        try:
            clip = load_open_clip(
                self.colour_model, self.colour_pretrained, self.where, self.precision
            )
        except UserError as error:
            raise UserError(f"metric geneval: colour_model: {error}") from error
        return Colours(clip, self.where, self.precision)

    def release(self) -> bool:
        had_colours = self.__dict__.pop("colours", None) is not None
        return super().release() or had_colours

    def load(self) -> tuple[Network, Part]:
        """Detector and picture transform."""
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        where = f"metric geneval: model={self.model}"
        network = load_network(
            AutoModelForObjectDetection,
            self.model,
            where,
            buffers=False,
            revision=self.revision,
            dtype=self.precision,
        )
        prepare = load_part(AutoImageProcessor, self.model, where, revision=self.revision)
        if not hasattr(prepare, "post_process_object_detection"):
            raise UserError(
                f"{where}: its picture transform decodes no boxes; choose one like RT-DETR"
            )
        return network.to(self.where), prepare

    def _load_config(self) -> Part:
        """The detector's config alone."""
        from transformers import AutoConfig

        return load_part(AutoConfig, self.model, f"model={self.model}", revision=self.revision)

    @cached_property
    def _meanings(self) -> dict[str, Meaning]:
        if self.metadata is None:
            raise UserError(
                "metric geneval: metadata is missing: "
                "give metric.geneval.metadata=evaluation_metadata.jsonl"
            )
        try:
            return read_meanings(self.metadata)
        except UserError as error:
            raise UserError(f"metric geneval: {error}") from error

    def _find_meaning(self, prompt: Prompt) -> Meaning | None:
        return self._meanings.get(prompt.text.strip())

    def _lowest_score(self, meaning: Meaning) -> float:
        return self.counting_threshold if meaning.tag == "counting" else self.threshold


@dataclass(eq=False)
class Colours:
    """Which of `COLOURS` a thing has: that whose texts are nearest to its picture in CLIP's eyes.

    A colour's feature is the mean over `TEMPLATES` of the unit features, of unit length again.
    """

    clip: OpenCLIP
    where: torch.device
    precision: torch.dtype
    texts: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, crops: Sequence[tuple[str, Image.Image]]) -> list[str]:
        """The colour of each (class, picture); none, "", where CLIP gives no number."""
        found = self.cosines(crops)
        sound, places = found.isfinite().all(1).tolist(), found.argmax(1).tolist()
        return [COLOURS[place] if whole else "" for whole, place in zip(sound, places, strict=True)]

    def cosines(self, crops: Sequence[tuple[str, Image.Image]]) -> torch.Tensor:
        """(crops, colours)"""
        import torch
        from torch.nn import functional as F

        pixels = torch.stack([self.clip.prepare(image.convert("RGB")) for _, image in crops])
        with torch.no_grad():
            seen = F.normalize(
                self.clip.network.encode_image(pixels.to(self.where, self.precision)).float(),
                dim=-1,
            )
            read = torch.stack([self._read(name) for name, _ in crops])
        return torch.einsum("nd,ncd->nc", seen, read)

    def _read(self, name: str) -> torch.Tensor:
        """(colours, features) of a class."""
        from torch.nn import functional as F

        if name not in self.texts:
            said = [
                template.format(colour=colour, name=name)
                for colour in COLOURS
                for template in TEMPLATES
            ]
            each = F.normalize(
                self.clip.network.encode_text(self.clip.tokenize(said).to(self.where)).float(),
                dim=-1,
            )
            mean = each.reshape(len(COLOURS), len(TEMPLATES), -1).mean(1)
            self.texts[name] = F.normalize(mean, dim=-1)
        return self.texts[name]


def _list_classes(config: Part) -> dict[int, str]:
    """A detector's classes, by their number in its output."""
    return {number: normalize_class(label) for number, label in config.id2label.items()}


def crop(image: Image.Image, box: Box) -> Image.Image:
    """What a box shows, rounded to pixels of the picture, at least one."""
    left, top = (
        min(max(round(v), 0), side - 1) for v, side in zip(box[:2], image.size, strict=True)
    )
    right, bottom = (min(round(v), side) for v, side in zip(box[2:], image.size, strict=True))
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
