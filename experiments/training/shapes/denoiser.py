"""Third stage: text encoder and denoiser together, plainly or on mixed noise levels, with grounded
attention."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from asyndm.attention import Reading
from asyndm.levels import make_pixel_timesteps
from asyndm.networks.unet import UNet
from asyndm.protocols import Pipeline
from asyndm.shapes.render import MOST
from experiments.training.shapes.levels import DRAWS
from experiments.training.shapes.settings import Recipe

SAVE_EVERY = 1000
"""Steps between two savings of the state."""
COUNTS = ("step", "samples", "seconds", "losses")
"""What a training has beside its networks; `losses` are running means of both."""


class Denoiser(nn.Module):
    """The two trained networks as one module."""

    def __init__(self, pipe: Pipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipe.unet, pipe.text_encoder


def compute_losses(
    net: Denoiser,
    batch: dict[str, Any],
    alphas_bar: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """v-prediction MSE and the grounding loss mean (1 - share of attention inside the object)², of
    one batch."""
    x0, regions = batch["latents"], batch["regions"]
    levels = DRAWS[recipe.slow](regions, recipe.mixed_share, len(alphas_bar), generator)
    alpha_bar = alphas_bar[levels][:, None]
    alpha_t, sigma_t = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    noise = torch.randn(x0.shape, generator=generator)
    x, target = alpha_t * x0 + sigma_t * noise, alpha_t * noise - sigma_t * x0
    text = net.text_encoder(batch["tokens"]).last_hidden_state
    timesteps = make_pixel_timesteps(levels) if recipe.mixed_share else levels[:, 0, 0]
    with UNet().attention(net.unet, batch["positions"], Reading(factor=1)) as attention:
        attention.listen(slice(None), (x.shape[-2], x.shape[-1]))
        output = net.unet(x, timesteps, encoder_hidden_states=text).sample
        maps = attention.maps()
    things = regions[:, : maps.shape[1]]
    share = (maps * things).sum((2, 3)) / maps.sum((2, 3)).clamp_min(1e-8)
    present = (things.amax((2, 3)) > 0) & (maps.sum((2, 3)) > 0)
    grounding = ((1 - share) ** 2 * present).sum() / present.sum().clamp_min(1)
    return F.mse_loss(output, target), grounding


def draw_batches(
    data: dict[str, Tensor], empty: Tensor, recipe: Recipe, generator: torch.Generator
) -> Iterator[dict[str, Any]]:
    """Endless shuffled batches; dropped prompts become empty and name nothing."""
    words = data["words"]
    positions = [[(row == k + 1).nonzero()[:, 0].tolist() for k in range(MOST)] for row in words]
    nothing: list[list[int]] = [[] for _ in range(MOST)]
    while True:
        order = torch.randperm(len(words), generator=generator)
        # the last rows, too few for a batch, are left out of this round
        for rows in torch.split(order, recipe.batch_size)[: len(order) // recipe.batch_size]:
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
    parts = torch.split(flat, [g.numel() for g in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))


class Training:
    """The state of a training: networks, their average, optimiser, counts. One step, saving and
    resuming.

    Args:
        pipe: whose UNet and text encoder are trained in place, as far as they want gradients.
        path: where the state is saved by the first worker, and found if this training was
            interrupted.
        start: the state of an earlier training to begin with; steps and pictures are counted anew.
    """

    def __init__(
        self,
        pipe: Pipeline,
        recipe: Recipe,
        path: Path | None = None,
        start: Path | None = None,
    ) -> None:
        self.recipe, self.path = recipe, path
        self.net = Denoiser(pipe).train()
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.average = copy.deepcopy(self.net).eval()
        self.averages: list[Tensor] = [p for p in self.average.parameters() if p.requires_grad]
        self.average.requires_grad_(False)
        self.step, self.samples, self.seconds, self.losses = 0, 0, 0.0, torch.ones(2)
        is_resumed = path is not None and path.exists()
        if found := path if is_resumed else start:
            saved = torch.load(found, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(saved[name])
            if is_resumed:
                for name in COUNTS:
                    setattr(self, name, saved[name])

    def _parts(self) -> dict[str, Any]:
        return {"net": self.net, "average": self.average, "optimizer": self.optimizer}

    def save(self) -> None:
        """Write the state, all or nothing."""
        if self.path and (not dist.is_initialized() or dist.get_rank() == 0):
            states = {name: part.state_dict() for name, part in self._parts().items()}
            counts = {name: getattr(self, name) for name in COUNTS}
            torch.save({**states, **counts}, self.path.with_suffix(".part"))
            self.path.with_suffix(".part").rename(self.path)

    def update(self, total: Tensor, rate: float) -> None:
        """One step of the optimiser and of the average down the gradient of `total`, at this
        learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / self.recipe.warmup)
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        if _count_workers() > 1:
            _average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += self.recipe.batch_size * _count_workers()
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, list[Tensor](self.parameters), 1 - decay)


def train_denoiser(
    pipe: Pipeline,
    data: dict[str, Tensor],
    recipe: Recipe,
    *,
    seed: int,
    state: Path | None = None,
    start: Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `pipe`'s UNet and text encoder in place; they end with the averaged (EMA) weights.

    Args:
        data: what `make_dataset` returns; each worker its own.
        state: file to save to, and to go on from after an interruption: the clock goes on as well.
        start: the state of an earlier training to begin with.

    Returns:
        A record: steps, samples (all workers), seconds, losses.
    """
    torch.manual_seed(seed)
    training = Training(pipe, recipe, state, start)
    rank = dist.get_rank() if _count_workers() > 1 else 0
    generator = torch.Generator().manual_seed(seed + 1000 * rank + 10_000 * training.step)
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    source = draw_batches(data, empty, recipe, generator)
    began, running = time.perf_counter() - training.seconds, training.losses
    while (progress := _measure_progress(began, recipe.seconds)) < 1:
        rate = recipe.learning_rate + progress * (recipe.final_learning_rate - recipe.learning_rate)
        losses = compute_losses(
            training.net, next(source), pipe.scheduler.alphas_cumprod, recipe, generator
        )
        training.update(losses[0] + recipe.grounding * losses[1], rate)
        running.lerp_(torch.stack(losses).detach(), 0.01)
        training.seconds = time.perf_counter() - began
        if training.step % 100 == 0:
            report(
                f"step {training.step} loss {running[0]:.4f} grounding {running[1]:.3f} "
                f"{training.samples / training.seconds:.0f} pictures/s {training.seconds:.0f} s"
            )
        if training.step % SAVE_EVERY == 0:
            training.save()
    training.save()
    training.net.load_state_dict(training.average.state_dict())
    training.net.eval()
    return {
        "steps": training.step,
        "samples": training.samples,
        "seconds": training.seconds,
        "loss": float(running[0]),
        "grounding_loss": float(running[1]),
    }


def _count_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _measure_progress(began: float, seconds: float) -> float:
    """Share of the time used, the same for all workers (the slowest clock counts)."""
    share = torch.tensor((time.perf_counter() - began) / max(seconds, 1e-9), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(share, op=dist.ReduceOp.MAX)
    return float(share)
