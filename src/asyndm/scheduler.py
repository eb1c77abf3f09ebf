"""Asynchronous denoising: the algorithm on a page, as the scheduler of a stock pipeline."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from asyndm.curves import Curve, Linear
from asyndm.errors import UserError
from asyndm.ladder import Ladder, Level, is_flow, own_scheduler
from asyndm.masks import Mask, Scene
from asyndm.steps import Prediction, step

LINE = Linear()
RESPACED = ("karras", "exponential", "beta", "lu")
"""Kinds of sigmas that take the place of a scheduler's timestep spacing."""


class Advance(Protocol):
    """Where every pixel goes from u when r updates remain, of N, given the weights: (B, h, w), r,
    N, (B, S, h, w)."""

    def __call__(
        self, rungs: Tensor, remaining: int, num_inference_steps: int, weights: Tensor, /
    ) -> Tensor: ...


@dataclass(frozen=True)
class Method:
    """What a user chooses: u' = w·curve(u) + (1-w)·line(u); w and ω are those of the subject that
    owns the pixel.

    Args:
        curve: the concave schedule f.
        mask: who is on it.
        concavity: (B, S) float64, each subject's ω; -1 where an image has fewer subjects than S.
        rehearsed: (B, S, h, w) mean attention maps of a synchronous run, for a mask that rehearses.
        advance: another rule in place of the formula.
    """

    curve: Curve
    mask: Mask
    concavity: Tensor
    rehearsed: Tensor | None = None
    advance: Advance | None = None

    def scene(self, grid: tuple[int, int], device: torch.device) -> Scene:
        """The subjects on a grid of tokens."""
        return Scene(self.concavity.to(device), grid)

    def move(self, u: Tensor, r: int, N: int, weights: Tensor, scene: Scene) -> Tensor:
        """The places (B, h, w) after an update with r left."""
        if self.advance is not None:
            return self.advance(u, r, N, weights)
        w, omega = scene.owned(weights)
        return w * self.curve.advance(u, r, N, omega) + (1 - w) * LINE.advance(u, r, N)


class AsynchronousScheduler:
    """To a pipeline its scheduler; inside every token stands on a rung of its own of the stock
    scheduler's ladder.

    All but the algorithm (timesteps, shifts, config) is asked of a copy of the stock scheduler. The
    state is kept in float32 whatever the pipeline computes in, and gone on from as long as the
    pipeline hands back what it was given; where it changed that (inpainting,
    ``callback_on_step_end``) its own is taken.

    Discrete models with "leading" timesteps begin one slope above the first of them, and every
    pixel is advanced once before the first evaluation, as in the paper's reference. On all other
    ladders, and where the pipeline itself noised a picture to begin with, the first evaluation is
    at the first rung for every pixel.

    Args:
        stock: the pipeline's own scheduler, which is left alone.
        method: curve, mask and subjects.
        eta: η, whatever the pipeline says; None: as the pipeline says, or where its own scheduler's
            step takes none, as that one draws noise.
        callback: called after each step.
        images: which of the user's images the batch holds.
        generators: of the noise where the pipeline hands over none.
    """

    order = 1

    def __init__(
        self,
        stock: Any,
        method: Method,
        *,
        eta: float | None = None,
        callback: Callable[[StepRecord], None] | None = None,
        images: range = range(1),
        generators: Sequence[torch.Generator] | None = None,
    ) -> None:
        self.stock = own_scheduler(stock)
        self.flow = is_flow(self.stock)
        self.method, self.callback, self.images, self.generators = (
            method,
            callback,
            images,
            generators,
        )
        self.eta, self._thread = eta, threading.get_ident()
        self.prediction = Prediction.of(self.stock, self.flow)
        self.set_timesteps = self._like_stock()
        self.rungs: Tensor | None = None
        self._handed: tuple[Tensor, Tensor, int | None] | None = None
        self.maps: Callable[[], Tensor | None] = lambda: None
        self.evaluated = False

    def __getattr__(self, name: str) -> Any:
        if "stock" not in self.__dict__:  # while being copied
            raise AttributeError(name)
        return getattr(self.stock, name)

    def _like_stock(self) -> Callable[..., None]:
        """``set_timesteps`` with the stock signature, from which pipelines read which arguments it
        takes."""

        @functools.wraps(self.stock.set_timesteps)
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            self.check_thread()
            self.stock.set_timesteps(*args, **kwargs)
            self.timesteps: Tensor = self.stock.timesteps
            custom = any(kwargs.get(name) is not None for name in ("timesteps", "sigmas"))
            config = self.stock.config
            other = (
                custom or self.flow or any(config.get(f"use_{name}_sigmas") for name in RESPACED)
            )
            ahead = config.get("timestep_spacing") == "leading" and not other
            self.ladder = Ladder(self.stock, self.timesteps.device, ahead)
            self.first, self.noised, self.rungs = 0, False, None
            # Such count x/α: what comes from another pipeline, and goes to one, is in their scale
            # (refiners).
            self.counts_ratio = float(getattr(self.stock, "init_noise_sigma", 1.0)) != 1

        return set_timesteps

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The rung on which the pipeline starts: 0, or further down for image to image."""
        self.first = begin_index

    @property
    def init_noise_sigma(self) -> float:
        """What the pipeline scales its noise by. Stock schedulers that count x/α (Euler) scale
        theirs by more."""
        own = float(getattr(self.stock, "init_noise_sigma", 1.0))
        return own * float(self.ladder.level(self._rung(0)).alpha) if self.counts_ratio else own

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is, x = α x₀ + σ ε for every scheduler; one of another pipeline is
        brought to that scale."""
        return sample * self._foreign_scale().to(sample.dtype) if self._is_foreign() else sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x = α x₀ + σ ε at a timestep; once sampling has begun, at each pixel's own level
        instead."""
        if self.rungs is None:
            self.noised = True
            nearest = int(
                (self.timesteps.double() - timesteps.flatten()[0].to(self.timesteps)).abs().argmin()
            )
            level = self.ladder.level(self._rung(nearest))
        else:
            level = self._spread(self.ladder.level(self.rungs), noise)
        noisy = level.alpha * original_samples + level.sigma * noise
        return noisy.to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as pipelines of flow models call it."""
        return self.add_noise(sample, noise, timestep)

    def begin(self, grid: tuple[int, int], evaluations: int | None) -> None:
        """Set every token on its first rung.

        Args:
            grid: (h, w) of the tokens.
            evaluations: how many the pipeline will make from here; None: to the end of the ladder.
                All pixels reach the rung after the last of them together, so that a refiner can go
                on from there.
        """
        N = len(self.ladder)
        self.remaining = N - self.first if evaluations is None else min(evaluations, N - self.first)
        self.last = N - self.first - self.remaining
        self.step_index, self._handed = 0, None
        device = self.timesteps.device
        self.scene = self.method.scene(grid, device)
        self.weights = self.method.mask.initial(self.scene, self._rehearsed)
        ahead = self.ladder.ahead and not self.first and not self.noised
        start = float(N if ahead else N - 1 - self.first)
        self.rungs = torch.full(
            (len(self.images), *grid), start, dtype=torch.float64, device=device
        )
        if ahead:
            self.rungs = self._advance(self.rungs, self.remaining)
        self.evaluated = False

    def is_idle(self) -> bool:
        """Whether the pipeline is not in the middle of sampling: not begun, or done."""
        return not hasattr(self, "ladder") or (self.rungs is not None and not self.remaining)

    def check_thread(self) -> None:
        """Refuse a call of the pipeline, or of one that shares its network, from another thread."""
        if threading.get_ident() != self._thread:
            raise UserError(
                "this network is sampling asynchronously in another thread: give each thread a "
                "pipeline of its own, "
                "or let asyndm.sample make the pictures of both (it takes turns)"
            )

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float | None = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Evaluation i is made: every pixel goes from its level to its next one, and the mask
        follows.

        Args:
            model_output: (B, C, H, W), or packed (B, h w, C): ε, v or flow, guided.
            timestep: of the straight line; each pixel has its own, so it is not used.
            sample: as handed out by the last step.

        Returns:
            The sample after the step and the predicted x₀.

        Raises:
            UserError: the network was not told the pixels' timesteps, or the batch has another
                size.
        """
        self.check_thread()
        if self.rungs is None or not self.evaluated:
            raise UserError(
                "the network ran without being told a timestep per pixel (is it compiled, or not "
                "the pipeline's own?): "
                "give the pipeline as it was loaded"
            )
        if len(sample) != len(self.images):
            raise UserError(
                f"the pipeline makes {len(sample)} images, but {len(self.images)} prompts were "
                "stated: "
                "give num_images_per_prompt to asyndm as well"
            )
        x, output = self._float_state(sample), model_output.float()
        u, self.remaining = self.rungs, self.remaining - 1
        now = self._spread(self.ladder.level(u), x)
        u_next = (
            self._advance(u, self.remaining)
            if self.remaining
            else torch.full_like(u, self.last - 1.0)
        )
        then = self._spread(self._level_after(u_next), x)
        eta = self._eta(eta)
        noise = self._draw(x, generator) if eta > 0 else None
        x, x0 = step(x, output, now, then, eta=eta, noise=noise, prediction=self.prediction)
        self.step_index, self.rungs, self.evaluated = self.step_index + 1, u_next, False
        maps = self.maps()
        if self.callback is not None:
            self.callback(self._record(u, u_next, output, maps, x, x0))
        self.weights = self.method.mask.follow(self.weights, maps, self.scene)
        if self.counts_ratio and not self.remaining:
            x = x / then.alpha
        return self._hand(x, sample.dtype), x0.to(sample.dtype)

    def _eta(self, stated: float | None) -> float:
        if self.eta is not None:
            return self.eta
        if stated is None or "eta" not in signature(self.stock.step).parameters:
            return 0.0 if self.flow else own_noise(self.stock)
        return stated

    def _advance(self, u: Tensor, r: int) -> Tensor:
        moved = self.method.move(u - self.last, r, len(self.ladder), self.weights, self.scene)
        return moved + self.last

    def _level_after(self, u_next: Tensor) -> Level:
        """The levels at the next places; below the last rung lies the clean end."""
        if self.remaining or self.last:
            return self.ladder.level(u_next)
        clean = self.ladder.clean
        return Level(clean.alpha.expand_as(u_next), clean.sigma.expand_as(u_next))

    def _rung(self, index: int) -> Tensor:
        return torch.tensor(
            float(len(self.ladder) - 1 - index), dtype=torch.float64, device=self.timesteps.device
        )

    def _rehearsed(self) -> Tensor:
        if self.method.rehearsed is None:
            raise UserError(
                f"mask {self.method.mask.name!r} is found by a run before the run: use "
                "asyndm.sample, "
                "which calls the pipeline twice"
            )
        return self.method.rehearsed

    def _spread(self, level: Level, like: Tensor) -> Level:
        return Level(spread(level.alpha, like), spread(level.sigma, like))

    def _draw(self, x: Tensor, generator: Any) -> Tensor:
        own = generator if generator is not None else self.generators
        generators = list(own) if isinstance(own, Sequence) else own
        noise: Tensor = randn_tensor(
            tuple(x.shape), generator=generators, device=x.device, dtype=torch.float32
        )
        return noise

    def _is_foreign(self) -> bool:
        """Whether the sample is of another pipeline that counts x/α, half way down, as a refiner is
        handed it."""
        begun = self.rungs is not None and self.step_index > 0
        return self.counts_ratio and self.first > 0 and not self.noised and not begun

    def _foreign_scale(self) -> Tensor:
        return self.ladder.level(self._rung(self.first)).alpha

    def _float_state(self, sample: Tensor) -> Tensor:
        """The float32 state, or the pipeline's own sample where that is not what it was handed."""
        if self._is_foreign():
            return sample.float() * self._foreign_scale()
        if self._handed is not None:
            state, handed, changes = self._handed
            if sample is handed and (
                sample._version == changes if changes is not None else same(sample, state)
            ):
                return state
        return sample.float()

    def _hand(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        handed = x.to(dtype)
        # Tensors of inference mode do not count their changes.
        self._handed = x, handed, None if handed.is_inference() else handed._version
        return handed

    def _record(
        self, u: Tensor, u_next: Tensor, output: Tensor, maps: Tensor | None, x: Tensor, x0: Tensor
    ) -> StepRecord:
        done = not self.remaining and not self.last
        return StepRecord(
            step=self.step_index,
            remaining=self.remaining,
            timesteps=self.ladder.timestep(u),
            next_timesteps=torch.zeros_like(u) if done else self.ladder.timestep(u_next),
            sigmas=self.ladder.level(u).sigma,
            weights=self.weights,
            output=output,
            maps=maps,
            latents=x,
            sample=x0,
            images=self.images,
            flow=self.flow,
        )


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
        output: the network's output, guided.
        maps: (B, S, h, w) attention maps of this evaluation, if they were read; of a UNet coarser.
        latents: after the step.
        sample: the predicted x₀.
        images: which of the images asked for these B are; on a CPU they are made one after another.
        flow: whether the model is one of flow matching, whose timesteps are 1000 σ.
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
    images: range
    flow: bool


def habit(scheduler: Any, eta: float | None) -> float:
    """η as stated, else 0 for a flow and 1 for a diffusion model."""
    return (0.0 if is_flow(scheduler) else 1.0) if eta is None else eta


def own_noise(scheduler: Any) -> float:
    """η of a scheduler whose own step takes none: 1 where it draws noise (ancestral, DDPM), else
    0."""
    name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type"))
    return float("Ancestral" in name or "DDPM" in name or kind.startswith("sde"))


def same(sample: Tensor, state: Tensor) -> bool:
    """Whether a sample is still the state, as far as its dtype can tell."""
    return torch.equal(sample, state.to(sample.dtype))


def spread(values: Tensor, like: Tensor) -> Tensor:
    """A map (B, h, w) over latents: (B, 1, H, W), each token's value on all its pixels; packed
    latents: (B, h w, 1)."""
    if like.ndim == 3:
        return values.flatten(1)[..., None]
    height, width = like.shape[-2] // values.shape[-2], like.shape[-1] // values.shape[-1]
    if height * width > 1:
        values = values.repeat_interleave(height, -2).repeat_interleave(width, -1)
    return values[:, None]
