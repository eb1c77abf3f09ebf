"""Sampling as papers write it: one level for all pixels, alphas of the table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from asyndm.guidance.base import Guided, Outputs
from asyndm.guidance.moment import Moment, Place
from asyndm.ladder import Level
from asyndm.steps import Prediction

SubStep: TypeAlias = "Callable[[Plain, Tensor, int], tuple[Tensor, Tensor, Tensor]]"
"""x, and what x₀ and noise are made from, of step i = 0 ... N-1."""


@dataclass
class Plain:
    """A pipeline of Stable Diffusion, taken apart.

    Args:
        steps: N.
    """

    pipe: Any
    prompt: str
    steps: int
    eta: float = 0.0
    seed: int = 3

    def __post_init__(self) -> None:
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(self.steps)
        self.timesteps = [int(t) for t in scheduler.timesteps]
        self.alphas = [float(scheduler.alphas_cumprod[t]) for t in self.timesteps]
        self.alphas.append(float(scheduler.final_alpha_cumprod))
        cond, uncond = self.pipe.encode_prompt(self.prompt, "cpu", 1, True)
        self.texts = uncond, cond
        self.generator = torch.Generator().manual_seed(self.seed)

    def evaluate(self, x: Tensor, i: int, scale: float) -> Tensor:
        """e_u + scale (e_c - e_u), the network told the timestep of step i."""
        made: list[Tensor] = [
            self.pipe.unet(x, self.timesteps[i], encoder_hidden_states=text).sample
            for text in self.texts
        ]
        return made[0] + scale * (made[1] - made[0])

    def ddim(self, x: Tensor, e: Tensor, i: int, j: int) -> Tensor:
        """From the level of step i to that of step j, without noise; N is the clean end."""
        (alpha_i, sigma_i), (alpha_j, sigma_j) = self.level(i), self.level(j)
        return alpha_j * (x - sigma_i * e) / alpha_i + sigma_j * e

    def level(self, i: int) -> tuple[float, float]:
        """α and σ before step i."""
        a = self.alphas[i]
        return math.sqrt(a), math.sqrt(1 - a)

    @torch.no_grad()
    def sample(self, begin: SubStep) -> Tensor:
        """The latents of a whole run."""
        size = self.pipe.unet.config.sample_size
        x = torch.randn((1, 4, size, size), generator=self.generator)
        for i in range(self.steps):
            x, e, renoise = begin(self, x, i)
            a, b = self.alphas[i], self.alphas[i + 1]
            variance = self.eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            (alpha, sigma), (alpha_next, _) = self.level(i), self.level(i + 1)
            x = alpha_next * (x - sigma * e) / alpha + math.sqrt(1 - b - variance) * renoise
            if self.eta:
                x += math.sqrt(variance) * torch.randn(x.shape, generator=self.generator)
        return x


@dataclass
class ExactNetwork:
    """A run whose network knows the noise: x = α x₀ + σ ε, with the prompt and without.

    Args:
        places: where pixels stand after 0, 1, ... updates.
        move: made in the place of the step.
    """

    noise: Tensor
    places: list[Place] = field(default_factory=list)
    move: Callable[[Tensor, Guided], Tensor] | None = None
    rows: int = 0

    def look_ahead(self, updates: int) -> Place:
        return self.places[updates]

    def evaluate(self, x: Tensor, at: Place, scale: float) -> Outputs:
        self.rows += 2
        return Outputs(self.noise, self.noise, self.noise)

    def evaluate_at_scale(self, x: Tensor, at: Place, scale: float) -> Tensor:
        self.rows += 1
        return self.noise


def make_level(alphas_cumprod: Tensor) -> Level:
    return Level(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())


def make_moment(
    network: ExactNetwork, places: list[Place], move: Callable[[Tensor, Guided], Tensor]
) -> Moment:
    """The first of many steps, from the first place to the second.

    Args:
        places: where pixels stand after 0, 1, ... updates.
        move: made in the place of the step.
    """
    network.places, network.move = places, move
    known: dict[str, Any] = {
        "step": 1,
        "steps": 50,
        "guidance_scale": 5.0,
        "here": places[0],
        "there": places[1],
        "prediction": Prediction(),
        "state": {},
        "_run": network,
    }
    return Moment(**{each.name: None for each in fields(Moment)} | known)
