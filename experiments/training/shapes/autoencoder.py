"""First stage: the autoencoder, on renders of every kind of training prompt; and what it makes of
pictures."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndm.protocols import Network
from asyndm.shapes.render import render
from experiments.training.shapes.dataset import draw_specs
from experiments.training.shapes.settings import AutoencoderRecipe

WARMUP = 50
"""Steps over which the learning rate rises."""


def compute_reconstruction_loss(output: Tensor, target: Tensor, objects: Tensor) -> Tensor:
    """L1 + MSE/2 + L1/4 of the image gradients, on [-1, 1]; pixels at or near an object count five
    times."""
    weight = 1 + 4 * F.max_pool2d(objects, 5, 1, 2)
    away = output - target
    gradients = sum(((away.diff(dim=dim)).abs().mean() for dim in (-1, -2)), torch.zeros(()))
    return (weight * (away.abs() + 0.5 * away.square())).mean() + 0.25 * gradients


def schedule_rate(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train_autoencoder(vae: Network, recipe: AutoencoderRecipe, seed: int) -> dict[str, Any]:
    """Train those parameters of the autoencoder, in place, that want gradients.

    Returns:
        A record of the training.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pictures, objects = _draw_pictures(recipe, generator)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    start, step, steps, average = time.perf_counter(), 0, recipe.steps, 1.0
    while (progress := max(step / steps, (time.perf_counter() - start) / recipe.seconds)) < 1:
        # warm-up counts steps; the rest follows whichever of steps and clock is ahead
        place = step if step < WARMUP else int(progress * steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule_rate(place, steps, WARMUP)
        rows = torch.randint(0, len(pictures), (recipe.batch_size,), generator=generator)
        target = pictures[rows]
        posterior = vae.encode(target).latent_dist
        output = vae.decode(posterior.sample()).sample
        divergence = recipe.kl_weight * posterior.kl().mean()
        loss = compute_reconstruction_loss(output, target, objects[rows]) + divergence
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average += 0.02 * (F.l1_loss(output, target).item() - average)
        step += 1
        if step % 50 == 0:
            seconds = time.perf_counter() - start
            print(f"autoencoder step {step} L1 {average:.4f} {seconds:.0f} s", flush=True)
    return {
        "steps": step,
        "batch_size": recipe.batch_size,
        "seconds": time.perf_counter() - start,
        "l1": average,
    }


def _draw_pictures(recipe: AutoencoderRecipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) in [-1, 1], and where their objects are (n, 1, 64, 64)."""
    sizes = [min(512, recipe.pool - first) for first in range(0, recipe.pool, 512)]
    drawn = [render(draw_specs(size, generator, recipe.shares), generator) for size in sizes]
    pictures = torch.cat([batch.images for batch in drawn]) * 2 - 1
    return pictures, torch.cat([batch.regions.amax(1, keepdim=True) for batch in drawn])


@torch.no_grad()
def reconstruct(vae: Network, images: Tensor) -> Tensor:
    """Encode and decode pictures (B, 3, 64, 64) in [0, 1]."""
    parts = [
        vae.decode(vae.encode(batch * 2 - 1).latent_dist.mean).sample
        for batch in torch.split(images, 64)
    ]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def standardise(vae: Network, seed: int) -> None:
    """Fold a per-channel shift and scale into the 1x1 quantisation layers: latents get mean 0 and
    deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    pictures = render(draw_specs(1024, generator), generator).images * 2 - 1
    latents = torch.cat([vae.encode(p).latent_dist.mean for p in torch.split(pictures, 128)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    # the decoder's layer undoes what the encoder's will do: the bias first, by the old weights
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[channels:] -= 2 * std.log()
