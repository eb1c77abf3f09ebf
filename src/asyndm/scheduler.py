"""Asynchronous denoising: the algorithm on a page, as the scheduler of a stock pipeline."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asyndm.course import Course, expand_level, expand_map
from asyndm.errors import UserError
from asyndm.guidance.base import Guided
from asyndm.ladder import Ladder, Level, copy_scheduler, infer_stock_eta, is_flow
from asyndm.method import Method
from asyndm.noise import Generators, SpareNoise, draw_noise
from asyndm.protocols import StockScheduler
from asyndm.records import StepRecord
from asyndm.solvers import DDIM, Solver, forget
from asyndm.state import FloatState
from asyndm.steps import Move, Prediction

if TYPE_CHECKING:
    from asyndm.guidance.evaluator import Evaluator

DEFAULT_SOLVER = DDIM()

RESPACED = ("karras", "exponential", "beta", "lu")
"""Kinds of sigmas that take the place of a scheduler's timestep spacing."""


class AsynchronousScheduler:
    """To a pipeline its scheduler; inside every token stands on a rung of its own of the stock
    scheduler's ladder.

    All but the algorithm (timesteps, shifts, config) is asked of a copy of the stock scheduler. The
    state is kept in float32 whatever the pipeline computes in, see `FloatState`.

    Discrete models with "leading" timesteps begin one slope above the first of them, and every
    pixel is advanced once before the first evaluation, as in the paper's reference. On all other
    ladders, and where the pipeline itself noised a picture to begin with, the first evaluation is
    at the first rung for every pixel.

    Args:
        stock: the pipeline's own scheduler, which is left alone.
        method: curve, mask and subjects.
        solver: of the step between two levels.
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
        solver: Solver = DEFAULT_SOLVER,
        eta: float | None = None,
        callback: Callable[[StepRecord], None] | None = None,
        images: Sequence[int] = range(1),
        generators: Sequence[torch.Generator] | None = None,
    ) -> None:
        self.stock = copy_scheduler(stock)
        self.flow = is_flow(self.stock)
        self.method, self.solver, self.callback = method, solver, callback
        self.images, self.generators = images, generators
        self.eta, self._thread = eta, threading.get_ident()
        self.prediction = Prediction.of(self.stock, self.flow)
        self.set_timesteps = self._wrap_set_timesteps()
        self.rungs: Tensor | None = None
        self.state = FloatState()
        self.maps: Callable[[], Tensor | None] = lambda: None
        self.guide: Evaluator | None = None
        self.history: dict[str, Tensor] = {}
        self._course: Course | None = None
        self._noise: Tensor | None = None
        self.step_eta = 0.0
        self.evaluated, self.evaluations, self.backward_evaluations = False, 0, 0

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
            level = expand_level(self.ladder.level(self.rungs), noise)
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
        self.steps, self.step_index, self._course = self.remaining, 0, None
        self.state = FloatState()
        self._spare = SpareNoise(self.generators, self.steps)
        self.history.clear()
        if self.guide is not None:
            self.guide.state.clear()
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
        self.evaluated, self.evaluations, self.backward_evaluations = False, 0, 0
        if rehearsal is not None:
            self.evaluations = rehearsal.evaluations
            self.backward_evaluations = rehearsal.backward_evaluations

    def count(self, rows: int) -> None:
        """The denoising network has been called with a batch of this many rows."""
        self.evaluated, self.evaluations = True, self.evaluations + rows

    def count_backward(self, rows: int) -> None:
        """A gradient has been taken through a batch of this many rows."""
        self.backward_evaluations += rows

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
        self._began = self._take_state(sample)
        course, self.step_eta = self.aim(self._began), self._choose_eta(eta)
        self._noise = self._draw(self._began, generator) if self.step_eta > 0 else None
        output = model_output.float()
        if self.guide is None:
            x = self.move(self._began, Guided(output))
        else:
            x = self.guide.make_step(self._began, output)
        self.rungs, self._course, self.evaluated = course.u_s, None, False
        self.step_index, self.remaining = self.step_index + 1, self.remaining - 1
        maps = self.maps()
        if self.callback is not None:
            self.callback(self._make_record(course, maps, x))
        # Only now: the mask of evaluation i steers the update of evaluation i + 1.
        self.weights = self.method.mask.follow(self.weights, maps, self.scene)
        x0 = self._x0.to(sample.dtype)
        if self.counts_ratio and not self.remaining:
            x = x / course.level_s.alpha
        return self.state.hand_out(x, sample.dtype), x0

    def aim(self, like: Tensor) -> Course:
        """Where every pixel goes in the step that begins; known before its evaluation, since the
        mask of it steers the next one."""
        if self._course is None:
            assert self.rungs is not None
            u_t, left = self.rungs, self.remaining - 1
            u_s = self._advance(u_t, left) if left else torch.full_like(u_t, self.last - 1.0)
            self._course = Course(
                u_t,
                u_s,
                expand_level(self.ladder.level(u_t), like),
                expand_level(self._level_after(u_s, left), like),
                *(expand_map(self.ladder.timestep(u), like) for u in (u_t, u_s)),
            )
        return self._course

    def move(self, x: Tensor, guided: Guided) -> Tensor:
        """The step of every pixel, by the solver."""
        course, self._output = self._course, guided.output
        assert course is not None
        if x is not self._began:
            self.history.clear()
        move = Move(course.level_t, course.level_s, self.step_eta, self._noise, self.prediction)
        again = None if self.guide is None or self.remaining == 1 else self.guide.evaluate_there
        x, self._x0 = self.solver.step(x, guided, move, self.history, again)
        return x

    def look_ahead(self, updates: int, like: Tensor) -> tuple[Tensor, Level]:
        """Rungs and levels after so many updates under the mask there is; at the most those of the
        last evaluation."""
        assert self.rungs is not None
        rungs = self.rungs
        for left in range(self.remaining - 1, max(0, self.remaining - 1 - updates), -1):
            rungs = self._advance(rungs, left)
        return rungs, expand_level(self.ladder.level(rungs), like)

    def follow_line(self, like: Tensor) -> tuple[tuple[Tensor, Level], tuple[Tensor, Level]]:
        """Rungs and levels of a pixel on the straight line, where it stands and where it goes."""
        assert self.rungs is not None
        left = self.remaining - 1
        u_t = torch.full_like(self.rungs, float(self.last + left))
        u_s = u_t - 1
        level_t, level_s = self.ladder.level(u_t), self._level_after(u_s, left)
        return (u_t, expand_level(level_t, like)), (u_s, expand_level(level_s, like))

    @contextmanager
    def standing_at(self, rungs: Tensor, images: Sequence[int] | None = None) -> Iterator[None]:
        """The network is told that pixels stand there, of these images of the batch alone; None: of
        all."""
        kept = self.rungs, self.images
        self.rungs = rungs
        if images is not None:
            self.rungs = rungs[list(images)]
            self.images = [self.images[image] for image in images]
        try:
            yield
        finally:
            self.rungs, self.images = kept

    def draw_spare(self, like: Tensor) -> Tensor:
        """Noise of each image's generator that no step draws."""
        return self._spare.draw(like, self.step_index)

    def _choose_eta(self, stated: float | None) -> float:
        if self.eta is not None:
            return self.eta
        if stated is None or "eta" not in signature(self.stock.step).parameters:
            return 0.0 if self.flow else infer_stock_eta(self.stock)
        return stated

    def _advance(self, u: Tensor, r: int) -> Tensor:
        moved = self.method.move(u - self.last, r, len(self.ladder), self.weights, self.scene)
        return moved + self.last

    def _level_after(self, u_s: Tensor, left: int) -> Level:
        """The levels where pixels go; below the last rung lies the clean end."""
        if left or self.last:
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

    def _draw(self, x: Tensor, generator: Generators) -> Tensor:
        return draw_noise(x, generator if generator is not None else self.generators)

    def _is_foreign(self) -> bool:
        """Whether the sample is of another pipeline that counts x/α, half way down, as a refiner is
        handed it."""
        begun = self.rungs is not None and self.step_index > 0
        return self.counts_ratio and self.first > 0 and not self.noised and not begun

    def _foreign_scale(self) -> Tensor:
        return self.ladder.level(self._rung_at(self.first)).alpha

    def _take_state(self, sample: Tensor) -> Tensor:
        """The float32 state; a solver forgets the history of pixels that are not as it left
        them."""
        if self._is_foreign() and not self.state.is_replaced:
            return sample.float() * self._foreign_scale()
        x, moved = self.state.take(sample)
        if moved is not None:
            forget(self.history, moved)
        return x

    def _make_record(self, course: Course, maps: Tensor | None, x: Tensor) -> StepRecord:
        u_t, u_s = course.u_t, course.u_s
        done = not self.remaining and not self.last
        return StepRecord(
            step=self.step_index,
            remaining=self.remaining,
            timesteps=self.ladder.timestep(u_t),
            next_timesteps=torch.zeros_like(u_s) if done else self.ladder.timestep(u_s),
            sigmas=self.ladder.level(u_t).sigma,
            weights=self.weights,
            output=self._output,
            maps=maps,
            latents=x,
            sample=self._x0,
            images=self.images,
            flow=self.flow,
            evaluations=self.evaluations,
            backward_evaluations=self.backward_evaluations,
        )
