"""Does clearer context help a network to decide its objects? Measured without sampling, on the
embedded models.

    python -m experiments.studies.clearer_context  # both models, test prompts, about two minutes
    python -m experiments.studies.clearer_context --kinds texture scene --pictures 512

True pictures get the noise of timestep t on their objects and of t - gap on everything else. What
counts is the squared error of the network's v-prediction on object pixels alone, against the same
pictures and noise with t everywhere. The target there is the same, so the change is owed to the
context only: below 0, clearer context helps. This is the premise of asynchronous sampling, apart
from masks and curves, and at its best: the clean context is the true one, and the outline of the
noisy region, like the timestep map itself, gives away where the objects are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.levels import pixel_timesteps
from asyndm.shapes.model import CHECKPOINTS, load_pipeline
from asyndm.shapes.render import render
from asyndm.shapes.world import KINDS, Spec, prompts
from evaluation.statistics import paired

LEVELS = (900, 800, 700, 600, 400, 200)
GAPS = (50, 100, 200, 300)
CHUNK = 64


@dataclass(frozen=True)
class Scenes:
    """True pictures as a network sees them.

    Attributes:
        latents, noise: (n, C, H, W).
        text: (n, L, D) embeddings of the prompts.
        objects: (n, H, W) share of each latent pixel that an object covers.
        names: of the prompts, the clusters of the interval.
    """

    latents: Tensor
    noise: Tensor
    text: Tensor
    objects: Tensor
    names: list[str]


@torch.no_grad()
def draw(pipe: Any, specs: Sequence[Spec], seed: int = 0) -> Scenes:
    """Render and encode one picture of each prompt."""
    generator = torch.Generator().manual_seed(seed)
    picture = render(specs, generator)
    parts = picture.images.split(CHUNK)
    latents = torch.cat([pipe.vae.encode(part * 2 - 1).latent_dist.mean for part in parts])
    tokens = pipe.tokenizer(
        [s.text for s in specs], padding="max_length", return_tensors="pt"
    ).input_ids
    covered = picture.regions.sum(1, keepdim=True).clamp(0, 1)
    return Scenes(
        latents,
        torch.randn(latents.shape, generator=generator),
        pipe.text_encoder(tokens).last_hidden_state,
        F.adaptive_avg_pool2d(covered, latents.shape[-2:])[:, 0],
        [spec.text for spec in specs],
    )


@torch.no_grad()
def object_errors(pipe: Any, scenes: Scenes, level: int, gap: int) -> Tensor:
    """Each picture's mean squared v-error on object pixels (n,), with objects at `level`, the rest
    `gap` cleaner.

    Objects are grown by a latent pixel before the rest is made cleaner, as in training, so that no
    object pixel's own noise changes; the error counts only pixels that objects cover by more than
    half.
    """
    near = F.max_pool2d(scenes.objects[:, None], 3, 1, 1)[:, 0] > 0.25
    index = torch.where(near, level, level - gap)
    a = pipe.scheduler.alphas_cumprod[index][:, None]
    x = a.sqrt() * scenes.latents + (1 - a).sqrt() * scenes.noise
    target = a.sqrt() * scenes.noise - (1 - a).sqrt() * scenes.latents
    outputs = []
    for rows in torch.arange(len(x)).split(CHUNK):
        timesteps = pixel_timesteps(index[rows])
        outputs.append(
            pipe.unet(x[rows], timesteps, encoder_hidden_states=scenes.text[rows]).sample
        )
    inside = (scenes.objects > 0.5).float()
    error = (torch.cat(outputs) - target).square().mean(1)
    return (error * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)


def change(pipe: Any, scenes: Scenes, level: int, gap: int) -> tuple[float, float, float]:
    """Relative change of the error on objects by clearer context, with its 95 % interval over
    prompts."""
    before, after = object_errors(pipe, scenes, level, 0), object_errors(pipe, scenes, level, gap)
    scale = float(before.mean())

    def keyed(errors: Tensor) -> dict[tuple[str, int], float]:
        return {
            (name, i): value
            for i, (name, value) in enumerate(zip(scenes.names, errors.tolist(), strict=True))
        }

    compared = paired(keyed(after), keyed(before))
    assert compared is not None
    difference = compared.difference
    return difference.mean / scale, difference.low / scale, difference.high / scale


def main() -> None:
    """Print one table per model: rows are timesteps of the objects, columns are gaps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--pictures", type=int, default=256, help="evenly over the kinds")
    args = parser.parse_args()
    if args.pictures < len(args.kinds):
        parser.error(f"--pictures must be at least {len(args.kinds)}, one for each kind")
    each = args.pictures // len(args.kinds)
    specs = [
        prompts(args.split, kind)[i % len(prompts(args.split, kind))]
        for kind in args.kinds
        for i in range(each)
    ]
    for model in args.models:
        pipe = load_pipeline(model)
        scenes = draw(pipe, specs)
        print(f"\n{model}: {', '.join(args.kinds)} ({args.split}, {len(specs)} pictures)\n")
        print(
            "| timestep of the objects | "
            + " | ".join(f"context {gap} cleaner" for gap in GAPS)
            + " |"
        )
        print("|---" * (len(GAPS) + 1) + "|")
        for level in LEVELS:
            cells = [change(pipe, scenes, level, gap) if gap <= level else None for gap in GAPS]
            shown = ["" if c is None else f"{c[0]:+.1%} [{c[1]:+.1%}, {c[2]:+.1%}]" for c in cells]
            print(f"| {level} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
