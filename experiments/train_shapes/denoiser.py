"""Third stage: text encoder and denoiser together, plainly or on mixed noise levels, with grounded attention."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from asyndm.attention import CrossAttentionMaps
from asyndm.conditioning.unet import PerPixelTime
from asyndm.shapes.render import MOST

SAVE_EVERY = 1000
"""Steps between two savings of the state."""


@dataclass(frozen=True)
class Recipe:
    """How long and how to train.

    Attributes:
        seconds: wall-clock budget; the learning rate follows the clock from `learning_rate` to `final_learning_rate`.
        batch_size: pictures a step and worker.
        mixed_share: share of pictures whose objects and background have different noise levels.
        grounding: weight of the attention loss.
        dropout: share of prompts replaced by the empty one, for classifier-free guidance.
    """

    seconds: float
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    final_learning_rate: float = 1.5e-3
    warmup: int = 200
    mixed_share: float = 0.0
    grounding: float = 0.004
    dropout: float = 0.1
    ema: float = 0.998


class Denoiser(nn.Module):
    """The two trained networks as one module."""

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipe.unet, pipe.text_encoder


def noise_levels(
    count: int, mixed: float, regions: Tensor, timesteps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Timesteps for a batch: K = 2·count rows (backgrounds, then objects) and the row of each latent pixel.

    A plain picture has one level: u^0.75 of the timesteps with u stratified over the batch, a little denser where
    noise is strong and layouts are decided. A mixed one has objects at that level and a background up to 350 steps
    cleaner (or, rarely, up to 100 noisier), over the objects' true regions.

    Returns:
        timesteps (2·count,) long and index (count, 16, 16) long.
    """
    level = ((torch.arange(count) + torch.rand(count, generator=generator)) / count) ** 0.75 * timesteps
    gap = torch.rand(count, generator=generator) * 450 - 350
    gap = torch.where(torch.rand(count, generator=generator) < mixed, gap, torch.zeros(()))
    both = torch.cat([level + gap, level]).long().clamp(0, timesteps - 1)
    on_object = (F.max_pool2d(regions.amax(1, keepdim=True), 3, 1, 1)[:, 0] > 0.25).long()
    return both, on_object * count + torch.arange(count)[:, None, None]


def batch_loss(
    net: Denoiser, batch: dict[str, Any], alphas: Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """v-prediction MSE and the grounding loss mean (1 - share of attention inside the object)², of one batch."""
    x0, regions = batch["latents"], batch["regions"]
    count = len(x0)
    rows, index = noise_levels(count, recipe.mixed_share, regions, len(alphas), generator)
    a = alphas[rows[index]][:, None]
    noise = torch.randn(x0.shape, generator=generator)
    x, target = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
    text = net.text_encoder(batch["tokens"]).last_hidden_state
    with PerPixelTime(net.unet) if recipe.mixed_share else nullcontext() as per_pixel:
        if per_pixel:
            per_pixel.set(index, rows)
        with CrossAttentionMaps(net.unet, batch["positions"], factor=1, conditional_half=False) as attention:
            output = net.unet(x, rows[:count], encoder_hidden_states=text).sample
            maps = attention.maps()
    things = regions[:, : maps.shape[1]]
    share = (maps * things).sum((2, 3)) / maps.sum((2, 3)).clamp_min(1e-8)
    present = (things.amax((2, 3)) > 0) & (maps.sum((2, 3)) > 0)
    grounding = ((1 - share) ** 2 * present).sum() / present.sum().clamp_min(1)
    return F.mse_loss(output, target), grounding


def batches(
    data: dict[str, Tensor], empty: Tensor, recipe: Recipe, generator: torch.Generator
) -> Iterator[dict[str, Any]]:
    """Endless shuffled batches; dropped prompts become empty and name nothing."""
    words = data["words"]
    positions = [[(row == k + 1).nonzero()[:, 0].tolist() for k in range(MOST)] for row in words]
    nothing: list[list[int]] = [[] for _ in range(MOST)]
    while True:
        order = torch.randperm(len(words), generator=generator)
        for rows in order.split(recipe.batch_size)[: len(order) // recipe.batch_size]:
            drop = torch.rand(len(rows), generator=generator) < recipe.dropout
            yield {
                "latents": data["latents"][rows].float(),
                "regions": data["regions"][rows].float() / 255,
                "tokens": torch.where(drop[:, None], empty, data["tokens"][rows]),
                "positions": [
                    nothing if gone else positions[i]
                    for i, gone in zip(rows.tolist(), drop.tolist(), strict=True)
                ],
            }


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over the workers, in one message."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.view(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def train_denoiser(
    pipe: StableDiffusionPipeline,
    data: dict[str, Tensor],
    recipe: Recipe,
    *,
    seed: int,
    state: Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `pipe`'s UNet and text encoder in place; they end with the averaged (EMA) weights.

    Args:
        data: what `make_dataset` returns; each worker its own.
        state: optimiser, weights and their average of an earlier training to go on from, and to save to.

    Returns:
        A record: steps, samples (all workers), seconds, losses.
    """
    torch.manual_seed(seed)
    workers = dist.get_world_size() if dist.is_initialized() else 1
    generator = torch.Generator().manual_seed(seed + 1000 * (dist.get_rank() if workers > 1 else 0))
    net = Denoiser(pipe).train()
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    step = samples = 0
    if state and state.exists():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, samples = saved["step"], saved["samples"]
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    alphas = pipe.scheduler.alphas_cumprod
    source = batches(data, empty, recipe, generator)

    def save() -> None:
        if state and (workers == 1 or dist.get_rank() == 0):
            kept = {
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save({**kept, "step": step, "samples": samples}, state.with_suffix(".part"))
            state.with_suffix(".part").rename(state)

    start, running, first = time.perf_counter(), torch.tensor([1.0, 1.0]), step
    while (progress := _progress(start, recipe.seconds)) < 1:
        rate = recipe.learning_rate + progress * (recipe.final_learning_rate - recipe.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / recipe.warmup)
        loss, grounding = batch_loss(net, next(source), alphas, recipe, generator)
        optimizer.zero_grad()
        (loss + recipe.grounding * grounding).backward()
        if workers > 1:
            _average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, samples = step + 1, samples + recipe.batch_size * workers
        decay = min(recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), parameters, 1 - decay)
        running.lerp_(torch.stack([loss.detach(), grounding.detach()]), 0.01)
        if step % 100 == 0:
            seconds = time.perf_counter() - start
            speed = (step - first) * recipe.batch_size * workers / seconds
            report(
                f"step {step} loss {running[0]:.4f} grounding {running[1]:.3f} {speed:.0f} pictures/s {seconds:.0f} s"
            )
        if step % SAVE_EVERY == 0:
            save()
    save()
    net.load_state_dict(average.state_dict())
    net.eval()
    return {
        "steps": step,
        "samples": samples,
        "seconds": time.perf_counter() - start,
        "loss": float(running[0]),
        "grounding_loss": float(running[1]),
    }


def _progress(start: float, seconds: float) -> float:
    """Share of the time used, the same for all workers (the slowest clock counts)."""
    share = torch.tensor((time.perf_counter() - start) / seconds, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(share, op=dist.ReduceOp.MAX)
    return float(share)
