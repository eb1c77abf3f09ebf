"""Asynchronous denoising: the algorithm on a page, as the scheduler of a stock pipeline."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from asyndm.errors import UserError
from asyndm.ladder import Ladder, Level, copy_scheduler, is_flow
from asyndm.method import Method
from asyndm.protocols import StockScheduler
from asyndm.records import StepRecord
from asyndm.steps import Prediction, step

Generators = torch.Generator | Sequence[torch.Generator] | None

RESPACED = ("karras", "exponential", "beta", "lu")
"""Kinds of sigmas that take the place of a scheduler's timestep spacing."""


class AsynchronousScheduler:
    """To a pipeline its scheduler; inside every token stands on a rung of its own of the stock
    scheduler's ladder.

    All but the algorithm (timesteps, shifts, config) is asked of a copy of the stock scheduler. The
    state is kept in float32 whatever the pipeline computes in: each step of half precision would
    round it anew, and the pixels that stand still would drift. It is gone on from as long as the
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
        stock: StockScheduler,
        method: Method,
        *,
        eta: float | None = None,
        callback: Callable[[StepRecord], None] | None = None,
        images: range = range(1),
        generators: Sequence[torch.Generator] | None = None,
    ) -> None:
        self.stock = copy_scheduler(stock)
        self.flow = is_flow(self.stock)
        self.method, self.callback = method, callback
        self.images, self.generators = images, generators
        self.eta, self._thread = eta, threading.get_ident()
        self.prediction = Prediction.of(self.stock, self.flow)
        self.set_timesteps = self._wrap_set_timesteps()
        self.rungs: Tensor | None = None
        self._handed: tuple[Tensor, Tensor, int | None] | None = None
        self.maps: Callable[[], Tensor | None] = lambda: None
        self.evaluated, self.evaluations = False, 0

    def __getattr__(self, name: str) -> Any:
        if "stock" not in self.__dict__:  # while being copied
            raise AttributeError(name)
        return getattr(self.stock, name)

    def _wrap_set_timesteps(self) -> Callable[..., None]:
        """``set_timesteps`` with the stock signature, from which pipelines read which arguments it
        takes."""

        @functools.wraps(self.stock.set_timesteps)
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            self.check_thread()
            self.stock.set_timesteps(*args, **kwargs)
            self.timesteps: Tensor = self.stock.timesteps
            custom = any(kwargs.get(name) is not None for name in ("timesteps", "sigmas"))
            config = self.stock.config
            respaced = any(config.get(f"use_{name}_sigmas") for name in RESPACED)
            leading = config.get("timestep_spacing") == "leading"
            ahead = leading and not (custom or self.flow or respaced)
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
        return own * float(self.ladder.level(self._rung_at(0)).alpha) if self.counts_ratio else own

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
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
            level = self.ladder.level(self._rung_at(nearest))
        else:
            level = self._expand(self.ladder.level(self.rungs), noise)
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
        self.scene = self.method.make_scene(grid, device)
        self.weights = self.method.mask.initial(self.scene, self._read_rehearsal)
        ahead = self.ladder.ahead and not self.first and not self.noised
        start = float(N if ahead else N - 1 - self.first)
        self.rungs = torch.full(
            (len(self.images), *grid), start, dtype=torch.float64, device=device
        )
        if ahead:
            self.rungs = self._advance(self.rungs, self.remaining)
        rehearsal = self.method.rehearsal
        self.evaluated, self.evaluations = False, 0 if rehearsal is None else rehearsal.evaluations

    def count(self, rows: int) -> None:
        """The denoising network has been called with a batch of this many rows."""
        self.evaluated, self.evaluations = True, self.evaluations + rows

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
        timestep: object,
        sample: Tensor,
        eta: float | None = None,
        generator: Generators = None,
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
                "the pipeline's own?): give the pipeline as it was loaded"
            )
        if len(sample) != len(self.images):
            raise UserError(
                f"the pipeline makes {len(sample)} images, but {len(self.images)} prompts were "
                "stated: give num_images_per_prompt to asyndm as well"
            )
        x, output = self._float_state(sample), model_output.float()
        u_t, self.remaining = self.rungs, self.remaining - 1
        if self.remaining:
            u_s = self._advance(u_t, self.remaining)
        else:
            u_s = torch.full_like(u_t, self.last - 1.0)
        level_t = self._expand(self.ladder.level(u_t), x)
        level_s = self._expand(self._level_after(u_s), x)
        eta = self._choose_eta(eta)
        noise = self._draw(x, generator) if eta > 0 else None
        x, x0 = step(x, output, level_t, level_s, eta=eta, noise=noise, prediction=self.prediction)
        self.step_index, self.rungs, self.evaluated = self.step_index + 1, u_s, False
        maps = self.maps()
        if self.callback is not None:
            self.callback(self._make_record(u_t, u_s, output, maps, x, x0))
        # Only now: the mask of evaluation i steers the update of evaluation i + 1.
        self.weights = self.method.mask.follow(self.weights, maps, self.scene)
        if self.counts_ratio and not self.remaining:
            x = x / level_s.alpha
        return self._hand_out(x, sample.dtype), x0.to(sample.dtype)

    def _choose_eta(self, stated: float | None) -> float:
        if self.eta is not None:
            return self.eta
        if stated is None or "eta" not in signature(self.stock.step).parameters:
            return 0.0 if self.flow else infer_stock_eta(self.stock)
        return stated

    def _advance(self, u: Tensor, r: int) -> Tensor:
        moved = self.method.move(u - self.last, r, len(self.ladder), self.weights, self.scene)
        return moved + self.last

    def _level_after(self, u_s: Tensor) -> Level:
        """The levels where pixels go; below the last rung lies the clean end."""
        if self.remaining or self.last:
            return self.ladder.level(u_s)
        clean = self.ladder.clean
        return Level(alpha=clean.alpha.expand_as(u_s), sigma=clean.sigma.expand_as(u_s))

    def _rung_at(self, index: int) -> Tensor:
        return torch.tensor(
            float(len(self.ladder) - 1 - index), dtype=torch.float64, device=self.timesteps.device
        )

    def _read_rehearsal(self) -> Tensor:
        if self.method.rehearsal is None:
            raise UserError(
                f"mask {self.method.mask.name!r} is found by a run before the run: use "
                "asyndm.sample, which calls the pipeline twice"
            )
        return self.method.rehearsal.maps

    def _expand(self, level: Level, like: Tensor) -> Level:
        return Level(alpha=expand_map(level.alpha, like), sigma=expand_map(level.sigma, like))

    def _draw(self, x: Tensor, generator: Generators) -> Tensor:
        """Standard normal noise, float32 whatever the pipeline computes in: the same draws."""
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
        return self.ladder.level(self._rung_at(self.first)).alpha

    def _float_state(self, sample: Tensor) -> Tensor:
        """The float32 state, or the pipeline's own sample where that is not what it was handed."""
        if self._is_foreign():
            return sample.float() * self._foreign_scale()
        if self._handed is not None:
            state, handed, changes = self._handed
            if sample is handed and (
                sample._version == changes if changes is not None else is_same(sample, state)
            ):
                return state
        return sample.float()

    def _hand_out(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        handed = x.to(dtype)
        # That it is the same tensor is not enough: pipelines also change theirs in place. Tensors
        # of inference mode do not count their changes, so these are compared by value.
        self._handed = x, handed, None if handed.is_inference() else handed._version
        return handed

    def _make_record(
        self, u_t: Tensor, u_s: Tensor, output: Tensor, maps: Tensor | None, x: Tensor, x0: Tensor
    ) -> StepRecord:
        done = not self.remaining and not self.last
        return StepRecord(
            step=self.step_index,
            remaining=self.remaining,
            timesteps=self.ladder.timestep(u_t),
            next_timesteps=torch.zeros_like(u_s) if done else self.ladder.timestep(u_s),
            sigmas=self.ladder.level(u_t).sigma,
            weights=self.weights,
            output=output,
            maps=maps,
            latents=x,
            sample=x0,
            images=self.images,
            flow=self.flow,
            evaluations=self.evaluations,
        )


def resolve_eta(scheduler: StockScheduler, eta: float | None) -> float:
    """η as stated, else 0 for a flow and 1 for a diffusion model."""
    return (0.0 if is_flow(scheduler) else 1.0) if eta is None else eta


def infer_stock_eta(scheduler: StockScheduler) -> float:
    """η of a scheduler whose own step takes none: 1 where it draws noise (ancestral, DDPM), else
    0."""
    name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type"))
    return float("Ancestral" in name or "DDPM" in name or kind.startswith("sde"))


def is_same(sample: Tensor, state: Tensor) -> bool:
    """Whether a sample is still the state, as far as its dtype can tell."""
    return torch.equal(sample, state.to(sample.dtype))


def expand_map(values: Tensor, like: Tensor) -> Tensor:
    """A map (B, h, w) over latents: (B, 1, H, W), each token's value on all its pixels; packed
    latents: (B, h w, 1)."""
    if like.ndim == 3:
        return values.flatten(1)[..., None]
    height, width = like.shape[-2] // values.shape[-2], like.shape[-1] // values.shape[-1]
    if height * width > 1:
        values = values.repeat_interleave(height, -2).repeat_interleave(width, -1)
    return values[:, None]
