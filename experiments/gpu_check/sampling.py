"""Samples on the device, in each dtype, against float32 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from asyndm import StepRecord, sample
from asyndm.masks import DynamicMask, GlobalMask, Mask, NoMask
from asyndm.protocols import Pipeline
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import Spec, prompts
from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import Row
from experiments.timing.cases import NETWORKS, Case, move_case
from experiments.timing.steps import KINDS, STOCK, make_latents, open_kind

CHECK = "sampling"
MASKS: tuple[Mask, ...] = (NoMask(), GlobalMask(), DynamicMask())
CPU = torch.device("cpu")
STEPS = 3
"""Of networks with random weights, whose differences only grow."""


@dataclass(frozen=True)
class Shapes:
    """What the embedded model is asked for."""

    specs: tuple[Spec, ...]
    steps: int

    def make(self, pipe: Pipeline, mask: Mask, together: bool) -> tuple[Tensor, Tensor]:
        """Latents and pictures in [0, 1], float32 on the CPU."""
        latents: dict[tuple[int, ...], Tensor] = {}

        def keep(record: StepRecord) -> None:
            latents[tuple(record.images)] = record.latents

        pictures = sample(
            pipe,
            [spec.text for spec in self.specs],
            [list(spec.subjects) for spec in self.specs],
            mask=mask,
            num_inference_steps=self.steps,
            batch_invariant=not together,
            callback=keep,
            output_type="pt",
            guidance_scale=5.0,
            seed=list(range(len(self.specs))),
        )
        return torch.cat(list(latents.values())).cpu(), pictures.float().cpu()


def list_parts(setting: Setting) -> Iterator[Part]:
    """The embedded model, and small networks with random weights, whose mask is fixed."""
    yield Part(CHECK, "shapes", partial(compare_shapes, setting), seconds=30, aimed=True)
    for name in ("unet", "sd35"):
        make = partial(compare_random, name, setting)
        yield Part(CHECK, f"small {name}", make, seconds=10, aimed=True)


def compare_shapes(setting: Setting) -> Iterator[Row]:
    """Differences of latents, and how alike the pictures are. On a CPU float32 in a batch is held
    against float32 one by one."""
    specs = prompts("test", "two")[: 2 if setting.small else 8]
    asked = Shapes(specs, 5 if setting.small else 20)
    stock = load_pipeline()
    stock.set_progress_bar_config(disable=True)
    expected = {mask.label: asked.make(stock, mask, together=False) for mask in MASKS}
    for dtype in setting.dtypes:
        pipe = deepcopy(stock).to(setting.device, dtype)
        for mask in MASKS:
            latents, pictures = asked.make(pipe, mask, together=True)
            case = f"shapes {mask.label} {_name(dtype)}"
            known, seen = expected[mask.label]
            yield Row(CHECK, case, "latents, largest difference", _find_largest(latents, known))
            tight = dtype == torch.float32
            ratio = compute_psnr(pictures, seen)
            yield Row(CHECK, case, "pictures, PSNR", ratio, "dB", least=30.0 if tight else None)


def compare_random(name: str, setting: Setting) -> Iterator[Row]:
    """Differences of latents, in standard deviations of those of the CPU."""
    size, side = ("tiny", 16) if setting.small else ("small", 32)
    case = replace(NETWORKS[name](size, CPU, torch.float32), side=side)
    kinds = [kind for kind in KINDS if kind != STOCK]
    expected = {kind: _sample_kind(case, kind) for kind in kinds}
    for dtype in setting.dtypes:
        there = move_case(case, setting.device, dtype)
        for kind in kinds:
            made, known = _sample_kind(there, kind), expected[kind]
            value = _find_largest(made, known) / float(known.std())
            named = f"small {name} {kind} {_name(dtype)}"
            most = 0.05 if dtype == torch.float32 else None
            yield Row(CHECK, named, "latents, largest difference", value, "sd", most)


def compute_psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise of pictures in [0, 1], in dB."""
    mean = float((a - b).square().mean())
    return -10 * math.log10(mean) if mean else math.inf


def _sample_kind(case: Case, kind: str) -> Tensor:
    with open_kind(case, kind):
        return make_latents(case, STEPS).float().cpu()


def _find_largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
