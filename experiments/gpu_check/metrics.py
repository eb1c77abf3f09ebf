"""CLIPScore and BLIP-VQA in half precision against float32, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from asyndm.shapes.render import render
from asyndm.shapes.world import prompts
from evaluation.metrics import ModelMetric
from evaluation.metrics.blip_vqa import BLIPVQA
from evaluation.metrics.clip_score import CLIPScore
from evaluation.networks.open_clip import OpenCLIP
from evaluation.runs.prompts import Prompt
from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import Row
from experiments.timing.blip import build_large_blip

CHECK = "metrics"
ARCHITECTURE = "ViT-B-32"


@dataclass(frozen=True)
class Pairs:
    """Pictures and their prompts."""

    pictures: list[Image.Image]
    prompts: list[Prompt]

    @classmethod
    def draw(cls, count: int) -> Pairs:
        """Test prompts of the shapes world."""
        specs = (prompts("test", "two") * count)[:count]
        images = render(specs, torch.Generator().manual_seed(0)).images
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        texts = [Prompt(f"p{i}", s.text, phrases=s.phrases) for i, s in enumerate(specs)]
        return cls([Image.fromarray(each) for each in pixels], texts)


Build = Callable[[str, str], ModelMetric[Any]]
"""A metric, of a dtype and a device."""


def list_parts(setting: Setting) -> Iterator[Part]:
    """The small networks that are here, and random ones of real size."""
    clip, blip = ("open_clip",), ("transformers",)
    yield Part(
        CHECK, "CLIPScore shapes", partial(compare, _clip, "CLIPScore shapes", setting), 10, 2, clip
    )
    yield Part(
        CHECK, "BLIP-VQA shapes", partial(compare, _blip, "BLIP-VQA shapes", setting), 10, 2, blip
    )
    if not setting.small:
        yield Part(
            CHECK, f"CLIPScore {ARCHITECTURE}", partial(compare_large_clip, setting), 15, 4, clip
        )
        yield Part(CHECK, "BLIP-VQA base", partial(compare_large_blip, setting), 20, 6, blip)


def compare(build: Build, case: str, setting: Setting) -> Iterator[Row]:
    """Scores in each dtype against those of float32 on the same device."""
    pairs, device = Pairs.draw(4 if setting.small else 64), str(setting.device)
    expected: Sequence[float] = ()
    for dtype in setting.dtypes:
        named = str(dtype).removeprefix("torch.")
        metric = build(named, device)
        found = _score(metric, pairs)  # warms up as well
        began = time.perf_counter()
        _score(metric, pairs)
        speed = len(pairs.pictures) / (time.perf_counter() - began)
        metric.release()
        expected = expected or found
        yield Row(CHECK, f"{case} {named}", "speed", speed, "pictures/s")
        if dtype != torch.float32:
            value = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            yield Row(CHECK, f"{case} {named}", "scores, largest difference to float32", value)


def compare_large_clip(setting: Setting) -> Iterator[Row]:
    """Random weights, the same in every dtype."""
    import open_clip

    def build(dtype: str, device: str) -> CLIPScore:
        torch.manual_seed(0)
        network, _, prepare = open_clip.create_model_and_transforms(ARCHITECTURE)
        metric = CLIPScore(ARCHITECTURE, dtype=dtype, device=device)
        network = network.to(metric.where, metric.precision).eval()
        metric.__dict__["loaded"] = OpenCLIP(
            network, prepare, open_clip.get_tokenizer(ARCHITECTURE)
        )
        return metric

    yield from compare(build, f"CLIPScore {ARCHITECTURE}", setting)


def compare_large_blip(setting: Setting) -> Iterator[Row]:
    """Random weights, the same in every dtype."""
    with TemporaryDirectory() as folder:
        build_large_blip(Path(folder))

        def build(dtype: str, device: str) -> BLIPVQA:
            return BLIPVQA(folder, image_size=480, dtype=dtype, device=device)

        yield from compare(build, "BLIP-VQA base", setting)


def _clip(dtype: str, device: str) -> CLIPScore:
    return CLIPScore("shapes", convention="shapes", dtype=dtype, device=device)


def _blip(dtype: str, device: str) -> BLIPVQA:
    return BLIPVQA("shapes", image_size=64, dtype=dtype, device=device)


def _score(metric: ModelMetric[Any], pairs: Pairs) -> list[float]:
    scores = metric.score(pairs.pictures, pairs.prompts)
    return [float("nan") if score.value is None else score.value for score in scores]
