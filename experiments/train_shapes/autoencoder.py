"""First stage: the autoencoder, on renders of every kind of training prompt."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from asyndm.shapes.model import build_autoencoder
from asyndm.shapes.render import render
from experiments.train_shapes.dataset import draw_specs


def reconstruction_loss(output: Tensor, target: Tensor, objects: Tensor) -> Tensor:
    """L1 + MSE/2 + L1/4 of the image gradients, on [-1, 1]; pixels at or near an object count five times."""
    weight = 1 + 4 * F.max_pool2d(objects, 5, 1, 2)
    away = output - target
    gradients = sum(((away.diff(dim=dim)).abs().mean() for dim in (-1, -2)), torch.zeros(()))
    return (weight * (away.abs() + 0.5 * away.square())).mean() + 0.25 * gradients


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train_autoencoder(
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    kl_weight: float,
    pool: int,
    seed: int,
    seconds: float,
    start_from: str | None = None,
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Train the autoencoder, then standardise its latents channel by channel.

    Args:
        pool: number of pictures rendered once, from which batches are drawn.
        start_from: folder of an autoencoder to go on from.
        seconds: stop after this long, with the learning rate following the clock if it is the tighter bound.

    Returns:
        The autoencoder and a record of the training.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = [render(draw_specs(min(512, pool), generator), generator) for _ in range(math.ceil(pool / 512))]
    pictures = torch.cat([batch.images for batch in drawn])
    objects = torch.cat([batch.regions.amax(1, keepdim=True) for batch in drawn])
    vae = AutoencoderKL.from_pretrained(start_from) if start_from else build_autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    start, step, average = time.perf_counter(), 0, 1.0
    while (progress := max(step / steps, (time.perf_counter() - start) / seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm_cosine(int(progress * steps) if step >= 50 else step, steps, 50)
        rows = torch.randint(0, len(pictures), (batch_size,), generator=generator)
        target = pictures[rows] * 2 - 1
        posterior = vae.encode(target).latent_dist
        output = vae.decode(posterior.sample()).sample
        loss = reconstruction_loss(output, target, objects[rows]) + kl_weight * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average += 0.02 * (F.l1_loss(output, target).item() - average)
        step += 1
        if step % 50 == 0:
            print(f"autoencoder step {step} L1 {average:.4f} {time.perf_counter() - start:.0f} s", flush=True)
    standardise(vae, pictures[:1024] * 2 - 1)
    return vae, {"steps": step, "batch_size": batch_size, "seconds": time.perf_counter() - start, "l1": average}


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold a per-channel shift and scale into the 1x1 quantisation layers: latents get mean 0 and deviation 1."""
    vae.eval()
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in pictures.split(128)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[channels:] -= 2 * std.log()
