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

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.levels import make_pixel_timesteps
from asyndm.protocols import Pipeline
from asyndm.shapes.model import CHECKPOINTS, load_pipeline
from asyndm.shapes.render import render
from asyndm.shapes.world import KINDS, SPLITS, Spec, prompts
from evaluation.commands import Parser, command_line
from evaluation.statistics import compare_pairs

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
def draw_scenes(pipe: Pipeline, specs: Sequence[Spec], seed: int = 0) -> Scenes:
    """Render and encode one picture of each prompt."""
    generator = torch.Generator().manual_seed(seed)
    picture = render(specs, generator)
    parts = torch.split(picture.images, CHUNK)
    latents = torch.cat([pipe.vae.encode(part * 2 - 1).latent_dist.mean for part in parts])
    texts = [spec.text for spec in specs]
    tokens = pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    covered = picture.regions.sum(1, keepdim=True).clamp(0, 1)
    return Scenes(
        latents,
        torch.randn(latents.shape, generator=generator),
        pipe.text_encoder(tokens).last_hidden_state,
        F.adaptive_avg_pool2d(covered, (latents.shape[-2], latents.shape[-1]))[:, 0],
        texts,
    )


@torch.no_grad()
def compute_errors(pipe: Pipeline, scenes: Scenes, level: int, gap: int) -> Tensor:
    """Each picture's mean squared v-error on object pixels (n,), with objects at `level`, the rest
    `gap` cleaner.

    Objects are grown by a latent pixel before the rest is made cleaner, as in training, so that no
    object pixel's own noise changes; the error counts only pixels that objects cover by more than
    half.
    """
    near = F.max_pool2d(scenes.objects[:, None], 3, 1, 1)[:, 0] > 0.25
    index = torch.where(near, level, level - gap)
    alpha_bar = pipe.scheduler.alphas_cumprod[index][:, None]
    alpha_t, sigma_t = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x = alpha_t * scenes.latents + sigma_t * scenes.noise
    target = alpha_t * scenes.noise - sigma_t * scenes.latents
    outputs = list[Tensor]()
    for rows in torch.split(torch.arange(len(x)), CHUNK):
        timesteps, text = make_pixel_timesteps(index[rows]), scenes.text[rows]
        outputs.append(pipe.unet(x[rows], timesteps, encoder_hidden_states=text).sample)
    inside = (scenes.objects > 0.5).float()
    error: Tensor = (torch.cat(outputs) - target).square().mean(1)
    return (error * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)


def measure_change(
    pipe: Pipeline, scenes: Scenes, level: int, gap: int
) -> tuple[float, float, float]:
    """Relative change of the error on objects by clearer context, with its 95 % interval over
    prompts."""
    before, after = (compute_errors(pipe, scenes, level, cleaner) for cleaner in (0, gap))
    scale = float(before.mean())

    def index_pictures(errors: Tensor) -> dict[tuple[str, int], float]:
        names = [(name, i) for i, name in enumerate(scenes.names)]
        return dict(zip(names, errors.tolist(), strict=True))

    compared = compare_pairs(index_pictures(after), index_pictures(before))
    assert compared is not None
    difference = compared.difference
    return difference.mean / scale, difference.low / scale, difference.high / scale


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one table per model: rows are timesteps of the objects, columns are gaps. Returns the
    exit status."""
    parser = Parser("experiments.studies.clearer_context", __doc__)
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--pictures", type=int, default=256, help="evenly over the kinds")
    chosen = parser.read(arguments)
    if chosen.pictures < len(chosen.kinds):
        parser.error(f"--pictures must be at least {len(chosen.kinds)}, one for each kind")
    each = chosen.pictures // len(chosen.kinds)
    specs = [
        spec for kind in chosen.kinds for spec in islice(cycle(prompts(chosen.split, kind)), each)
    ]
    for model in chosen.models:
        pipe = load_pipeline(model)
        scenes = draw_scenes(pipe, specs)
        print(f"\n{model}: {', '.join(chosen.kinds)} ({chosen.split}, {len(specs)} pictures)\n")
        heads = ["timestep of the objects", *(f"context {gap} cleaner" for gap in GAPS)]
        print(f"| {' | '.join(heads)} |")
        print("|---" * len(heads) + "|")
        for level in LEVELS:
            cells = [_format_cell(pipe, scenes, level, gap) for gap in GAPS]
            print(f"| {level} | {' | '.join(cells)} |", flush=True)
    return 0


def _format_cell(pipe: Pipeline, scenes: Scenes, level: int, gap: int) -> str:
    if gap > level:  # nothing is cleaner than a picture without noise
        return ""
    middle, low, high = measure_change(pipe, scenes, level, gap)
    return f"{middle:+.1%} [{low:+.1%}, {high:+.1%}]"


if __name__ == "__main__":
    sys.exit(main())
