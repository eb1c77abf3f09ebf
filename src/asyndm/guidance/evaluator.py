"""Around the pipeline's own calls of its network: the rows that a guidance asks for, and more
evaluations of the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from asyndm.course import expand_map
from asyndm.errors import UserError, say_once
from asyndm.guidance.base import Guidance, Guided, Outputs, Probe, Rows
from asyndm.guidance.moment import Moment, Place
from asyndm.networks import Family
from asyndm.protocols import Arguments, Network
from asyndm.scheduler import AsynchronousScheduler

COND, UNCOND, PERTURBED = "cond", "uncond", "perturbed"


@dataclass(frozen=True)
class Call:
    """A call of the network in a step: which rows the pipeline gave it, each as many as images."""

    names: tuple[str, ...]
    arguments: Arguments


@dataclass
class Evaluator:
    """Evaluates the network of one call of a pipeline as its guidance asks.

    `enter` and `leave` stand around each call of the network: rows that the guidance wants beside
    the pipeline's are added to its batch, or those it does without left out, and the pipeline is
    given back its own. What each row came to is kept for `combine`.

    Args:
        find_scale: g, as the pipeline is called with.
        conditional: which of two copies in a batch is the one with the prompt.
        rehearses: whether it is the run before the run.
    """

    guidance: Guidance
    network: Network
    family: Family
    scheduler: AsynchronousScheduler
    find_scale: Callable[[], float]
    conditional: int = 1
    probe: Probe | None = None
    moment: Moment | None = None
    state: dict[str, Any] = field(default_factory=dict)
    rows: Rows = field(default_factory=lambda: Rows(slice(0, 0)))
    rehearses: bool = False
    nested: bool = False
    differentiates: bool = False
    _calls: list[Call] = field(default_factory=list)
    _made: dict[str, Tensor] = field(default_factory=dict)
    _moved: Tensor | None = None
    _given: tuple[str, ...] = ()
    _asked: tuple[str, ...] = ()

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Hooks and settings of the network for the call of the pipeline."""
        with ExitStack() as stack:
            if self.guidance.needs_gradient:
                stack.enter_context(freeze(self.network))
            if self.probe is not None:
                stack.enter_context(self.probe)
            self.scheduler.guide = self
            yield

    @property
    def has_hooks(self) -> bool:
        """Whether it has hooks of its own in the network, or takes gradients through it."""
        return self.probe is not None or self.guidance.needs_gradient

    @property
    def reads_prompt(self) -> bool:
        """Whether a mask can be made of the call at hand, which is the guidance's: it has the row
        of the prompt, and makes a step."""
        return self.rows.cond.stop > 0 and not self.differentiates

    # --- around a call of the network -------------------------------------------------------------

    def enter(self, arguments: Arguments, first: bool) -> Arguments:
        """The arguments of the call with the rows that are wanted.

        Args:
            first: whether the pipeline's step begins with it.
        """
        if self.nested:
            return self._select(self._given, arguments, self._asked)
        if first:
            self._calls.clear()
            self._made.clear()
        names = self._name_rows(arguments, first)
        self._calls.append(Call(names, arguments))
        if first:
            self.moment, self._moved = self._open_moment(), None
            self._prepare()
        elif self._moved is not None:
            self._calls[-1] = self._write_states(self._calls[-1], self._moved)
        arguments = self._calls[-1].arguments
        assert self.moment is not None
        step, steps = self.moment.step, self.moment.steps
        wanted = list(names)
        if len(names) > 1 and self.guidance.drops_uncond(step, steps):
            wanted.remove(UNCOND)
        if COND in names and self.guidance.perturbs(step, steps):
            wanted.append(PERTURBED)
        return self._select(names, arguments, tuple(wanted))

    def leave(self, output: Any) -> Any:
        """The output with the rows that were given, in their order; one left out is that of the
        prompt, with which any combination is that again.

        Args:
            output: a tensor, or a list of tensors, one for each row.
        """
        if self.probe is not None:
            self.probe.end()
        asked, count = self._asked, len(self.scheduler.images)
        made = self.family.read_output(output, self._like)
        self._made.update(zip(asked, made.split(count), strict=True))
        if asked == self._given:
            return output
        other = COND if COND in asked else asked[0]
        places = [asked.index(name if name in asked else other) for name in self._given]
        rows = [place * count + image for place in places for image in range(count)]
        return [output[row] for row in rows] if isinstance(output, list) else output[rows]

    def _name_rows(self, arguments: Arguments, first: bool) -> tuple[str, ...]:
        copies = self.family.batch(arguments) // len(self.scheduler.images)
        if copies == 1:  # a second call of a step is that of the negative prompt
            return (COND,) if first else (UNCOND,)
        return (UNCOND, COND) if self.conditional else (COND, UNCOND)

    def _select(
        self, given: tuple[str, ...], arguments: Arguments, asked: tuple[str, ...]
    ) -> Arguments:
        count = len(self.scheduler.images)
        self._given, self._asked = given, asked
        places = {name: slice(i * count, (i + 1) * count) for i, name in enumerate(asked)}
        self.rows = Rows(places.get(COND, slice(0, 0)), places.get(UNCOND), places.get(PERTURBED))
        if asked != given:
            copies = [given.index(COND if name == PERTURBED else name) for name in asked]
            index = [copy * count + image for copy in copies for image in range(count)]
            arguments = self.family.select_rows(arguments, index)
        if self.probe is not None:
            self.probe.begin(self.rows, self.family.grid(self.network, arguments))
        return arguments

    def _open_moment(self) -> Moment:
        course, step = self.scheduler.aim(self._like), self.scheduler.step_index + 1
        if step == 1 and (idle := self.guidance.find_idle(self.scheduler.steps)):
            say_once(f"guidance={self.guidance.name} {idle}")
        return Moment(
            step=step,
            steps=self.scheduler.steps,
            guidance_scale=self.find_scale(),
            here=Place(course.u_t, course.level_t),
            there=Place(course.u_s, course.level_s),
            timesteps=course.timesteps,
            prediction=self.scheduler.prediction,
            probe=self.probe,
            state=self.state,
            _run=self,
        )

    def _prepare(self) -> None:
        """Has the step's first call made at the x that the guidance makes of what it is given."""
        if type(self.guidance).prepare is Guidance.prepare:
            return
        assert self.moment is not None
        x = self.scheduler.state.find(self._like)
        moved = self.guidance.prepare(x, self.moment)
        if moved is not x:
            self._moved = moved.detach()
            self.scheduler.state.replace(self._moved)
            self._calls[0] = self._write_states(self._calls[0], self._moved)
        self._made.clear()

    @property
    def _like(self) -> Tensor:
        """x, of each image once, as the step's first call has it."""
        states = self.family.read_states(self.network, self._calls[0].arguments)
        return states[: len(self.scheduler.images)]

    def _write_states(self, call: Call, x: Tensor) -> Call:
        """The call at another x."""
        copies = torch.cat([x] * len(call.names))
        return Call(call.names, self.family.write_states(call.arguments, copies))

    # --- what a guidance asks for ----------------------------------------------------------------

    @property
    def eta(self) -> float:
        """η of the step."""
        return self.scheduler.step_eta

    @property
    def line(self) -> tuple[Place, Place]:
        """Where a pixel on the straight line stands, and where it goes."""
        here, there = self.scheduler.follow_line(self._like)
        return Place(*here), Place(*there)

    @property
    def begins_with_noise(self) -> bool:
        """Whether the run begins at the first rung, with no picture."""
        return not self.scheduler.noised and not self.scheduler.first

    def move(self, x: Tensor, guided: Guided) -> Tensor:
        """The step by the run's solver."""
        return self.scheduler.move(x, guided)

    def look_ahead(self, updates: int) -> Place:
        """Where pixels stand after so many updates more."""
        return Place(*self.scheduler.look_ahead(updates, self._like))

    def draw_spare(self, like: Tensor) -> Tensor:
        """Noise that no step draws."""
        return self.scheduler.draw_spare(like)

    def make_step(self, x: Tensor, output: Tensor) -> Tensor:
        """x after the step.

        Args:
            output: the pipeline's own combination.
        """
        assert self.moment is not None
        given = {name for call in self._calls for name in call.names}
        if self.guidance.needs_uncond and UNCOND not in given:
            raise UserError(
                f"guidance={self.guidance.name}: the pipeline does not evaluate a negative prompt: "
                "call it with a guidance_scale above 1 (or a true_cfg_scale and a negative_prompt)"
            )
        self._check_combination(output)
        guided = self.guidance.combine(self._collect(output, x), self.moment)
        return self.guidance.step(x, guided, self.moment)

    def _check_combination(self, output: Tensor) -> None:
        """Refuse a pipeline that combines otherwise than the guidance is told: by another g, or
        with more to it."""
        cond, uncond = self._made[COND], self._made.get(UNCOND)
        assert self.moment is not None
        g, difference = self.moment.guidance_scale, torch.zeros_like(cond).float()
        if uncond is not None:
            difference = g * (cond.float() - uncond.float())
        expected = difference + (cond if uncond is None else uncond).float()
        # What the pipeline rounds, in the precision it combines in.
        eps = max(torch.finfo(each.dtype).eps for each in (cond, output))
        bound = 4 * eps * (cond.float().abs() + difference.abs())
        if bool(((output - expected).abs() > bound + bound.amax() / 100).any()):
            raise UserError(
                f"guidance={self.guidance.name}: what the pipeline combines is not e_u + g (e_c - "
                f"e_u) with g={g:g}: state its guidance_scale to asyndm as well, and leave out "
                "what rescales it"
            )

    def _collect(self, output: Tensor, x: Tensor) -> Outputs:
        made = {name: value.float() for name, value in self._made.items()}
        return Outputs(output, made[COND], made.get(UNCOND), made.get(PERTURBED), x)

    def evaluate(self, x: Tensor, at: Place, scale: float) -> Outputs:
        """The rows of this step once more, at another x or place."""
        names = {name for call in self._calls for name in call.names}
        assert self.moment is not None
        if self.guidance.drops_uncond(self.moment.step, self.moment.steps):
            names.discard(UNCOND)
        perturbed = self.guidance.perturbs(self.moment.step, self.moment.steps)
        self._run(x, at, (*names, PERTURBED) if perturbed else tuple(names))
        made = self._made
        guided = made[COND]
        if UNCOND in made:
            guided = made[UNCOND] + scale * (made[COND] - made[UNCOND])
        return self._collect(guided.float(), x)

    def evaluate_there(self, x: Tensor) -> Guided:
        """What the network says at x where the step goes, under the same guidance."""
        moment = self.moment
        assert moment is not None
        there = replace(moment, here=moment.there, timesteps=self.scheduler.aim(x).next_timesteps)
        outputs = self.evaluate(x, moment.there, moment.guidance_scale)
        return self.guidance.combine(outputs, there)

    def spread_weights(self, x: Tensor) -> Tensor:
        """How far on the curve each pixel is, over x."""
        weights, _ = self.scheduler.scene.combine(self.scheduler.weights)
        return expand_map(weights, x).to(x.dtype)

    def evaluate_at_scale(self, x: Tensor, at: Place, scale: float) -> Tensor:
        """e_u + scale (e_c - e_u), by one row of each picture where that is enough."""
        if scale in (0, 1):
            name = COND if scale else UNCOND
            self._run(x, at, (name,))
            return self._made[name].float()
        self._run(x, at, (UNCOND, COND))
        u, c = self._made[UNCOND], self._made[COND]
        return (u + scale * (c - u)).float()

    def differentiate(
        self, x: Tensor, at: Place, loss: Callable[[], Tensor], images: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each of these images and its gradient."""
        if torch.is_inference_mode_enabled():
            raise UserError(
                f"guidance={self.guidance.name} differentiates through the network: call it "
                "outside torch.inference_mode"
            )
        self.differentiates = True
        try:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                self._run(leaf, at, (COND,), images)
                losses = loss()
                (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        finally:
            self.differentiates = False
        self._made.clear()
        self.scheduler.count_backward(len(x))
        return losses.detach(), gradient

    def _run(
        self, x: Tensor, at: Place, asked: Sequence[str], images: Sequence[int] | None = None
    ) -> None:
        """Call the network as the pipeline did in this step, with these rows, at x; of these images
        alone, or of all (None)."""
        self._made.clear()
        calls = [self._choose_images(call, images) for call in self._calls]
        with self._nest(), self.scheduler.standing_at(at.rungs, images):
            for call in calls:
                wanted = [name for name in call.names if name in asked]
                if PERTURBED in asked and COND in wanted:
                    wanted.append(PERTURBED)
                if wanted:
                    self._given, self._asked = call.names, tuple(wanted)
                    self.network(**self._write_states(call, x).arguments)
        if not self._made:
            raise UserError(
                f"guidance={self.guidance.name}: the pipeline does not evaluate a negative prompt: "
                "call it with a guidance_scale above 1"
            )

    def _choose_images(self, call: Call, images: Sequence[int] | None) -> Call:
        """The call of some images of the batch; None: of all."""
        count = len(self.scheduler.images)
        if images is None or list(images) == list(range(count)):
            return call
        index = [copy * count + image for copy in range(len(call.names)) for image in images]
        return Call(call.names, self.family.select_rows(call.arguments, index))

    @contextmanager
    def _nest(self) -> Iterator[None]:
        """Calls inside are the guidance's, not the pipeline's."""
        kept = self.nested, self._given, self._asked, self.rows
        self.nested = True
        try:
            yield
        finally:
            self.nested, self._given, self._asked, self.rows = kept


@contextmanager
def freeze(network: Network) -> Iterator[None]:
    """No gradient of weights, whose memory would double that of the network."""
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        for weight in learned:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)
