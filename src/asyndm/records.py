"""What a callback is given after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepRecord:
    """What one step did; all tensors on the sampling device. h, w is the grid of tokens: latent
    pixels for UNets and Sana, squares of 2x2 of them for other transformers. Latents are as the
    pipeline has them, (B, C, H, W) or packed.

    Args:
        step: i = 1 ... N.
        remaining: N - i.
        timesteps: (B, h, w) float64, before the step, as the scheduler counts them.
        next_timesteps: (B, h, w) float64, after it.
        sigmas: (B, h, w) float32, the noise level before it.
        weights: (B, S, h, w), the mask that steered it.
        output: the network's output, guided, that the step was made with.
        maps: (B, S, h, w) attention maps of this evaluation, if they were read; of a UNet coarser.
        latents: after the step.
        sample: the predicted x₀.
        images: which of the images asked for these B are; on a CPU they are made one after another.
        flow: whether the model is one of flow matching, whose timesteps are 1000 σ.
        evaluations: rows of the batch the denoising network was called with for these B images so
            far: B for each call of it, 2 B with guidance, and those of a rehearsal. The last
            record of each B has the cost of these images; that of all images is their sum.
        backward_evaluations: rows a gradient was taken through, counted likewise.
    """

    step: int
    remaining: int
    timesteps: Tensor
    next_timesteps: Tensor
    sigmas: Tensor
    weights: Tensor
    output: Tensor
    maps: Tensor | None
    latents: Tensor
    sample: Tensor
    images: Sequence[int]
    flow: bool
    evaluations: int
    backward_evaluations: int = 0
