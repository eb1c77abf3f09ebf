"""One asynchronous call of a pipeline: its scheduler is ours, its network is told a timestep per
token."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from asyndm.attention import AttentionMaps
from asyndm.compilation import explain_errors, has_compiled, is_compiled, suspend_compilation
from asyndm.compiled_attention import make_traceable
from asyndm.compiled_levels import CompiledRows, find_class
from asyndm.errors import UserError
from asyndm.guidance.evaluator import Evaluator
from asyndm.levels import TimeRows, make_time_rows
from asyndm.networks import Family, find_denoiser, list_called, unwrap
from asyndm.protocols import Arguments, Images, Pipeline
from asyndm.scheduler import AsynchronousScheduler

TEXT_LEVELS = ("mean", "slowest", "fastest")
"""Where the text tokens of a joint sequence stand: at the mean of the image tokens' rungs, or with
the last or first."""

_registry = threading.Lock()
_locks: WeakKeyDictionary[Module, threading.Lock] = WeakKeyDictionary()
_holders: WeakKeyDictionary[Module, int] = WeakKeyDictionary()


@dataclass
class Session:
    """Tells the networks of a pipeline, for one call of it, where every token stands, and reads
    their attention.

    Args:
        pipe: a stock pipeline.
        family: the one that serves it.
        scheduler: takes the place of the pipeline's own.
        reader: of attention; None: it is not read.
        text_level: one of `TEXT_LEVELS`.
        guide: evaluates what a guidance asks for; None: the pipeline's own calls are all there is.
        check_call: refuses what the pipeline's call says, when it has begun.
    """

    pipe: Pipeline
    family: Family
    scheduler: AsynchronousScheduler
    reader: AttentionMaps | None = None
    text_level: str = "mean"
    guide: Evaluator | None = None
    check_call: Callable[[], None] = lambda: None
    _compiled: dict[Module, type[CompiledRows]] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[None]:
        """The pipeline is asynchronous inside, and the stock one again afterwards. Its network must
        be held, by `hold_network`."""
        pipe, scheduler = self.pipe, self.scheduler
        with ExitStack() as stack:
            self._enter_compiled(stack)
            if self.reader is not None:
                stack.enter_context(self.reader)
                scheduler.maps = self._read_maps
            if self.guide is not None:
                stack.enter_context(self.guide.attach())
            for each in map(unwrap, list_called(pipe)):
                before, after = self._insert_timesteps, self._check_output
                if each in self._compiled:
                    before, after = map(torch.compiler.disable, (before, after))
                for hook in (
                    each.register_forward_pre_hook(before, with_kwargs=True),
                    each.register_forward_hook(after, with_kwargs=True),
                ):
                    stack.callback(hook.remove)
            # Past the pipeline's own __setattr__, which would write our class into its config.
            stack.callback(vars(pipe).__setitem__, "scheduler", pipe.scheduler)
            vars(pipe)["scheduler"] = scheduler
            vars(pipe).pop("_num_timesteps", None)
            yield

    def _enter_compiled(self, stack: ExitStack) -> None:
        """Have networks and blocks that are compiled run as they are, where hooks come into them
        that dynamo would not see, and the others be told timesteps that it does not lose."""
        called = list_called(self.pipe)
        if not any(map(has_compiled, called)):
            return
        stack.enter_context(explain_errors())
        network = unwrap(called[0])
        if self.guide is not None and self.guide.has_hooks:
            everything = list(called[0].modules())
            stack.enter_context(suspend_compilation(everything, everything))
        read: Sequence[Module] = ()
        if self.reader is not None:
            blocks = [module for module in network.modules() if module is not network]
            stack.enter_context(suspend_compilation(blocks, self.reader.layers))
            if is_compiled(called[0]):
                self.reader = make_traceable(network, self.reader)
                read = self.reader.layers
        for each in filter(has_compiled, called):
            rows = find_class(CompiledRows, unwrap(each), read if each is called[0] else ())
            self._compiled[unwrap(each)] = rows
            stack.callback(rows.forget)
        stack.callback(self._compiled.clear)

    def _insert_timesteps(
        self, network: Module, args: tuple[object, ...], kwargs: Arguments
    ) -> tuple[tuple[()], Arguments]:
        """Put a timestep per token in the place of the one the pipeline hands over."""
        self.scheduler.check_thread()
        bound = inspect.signature(type(network).forward).bind(network, *args, **kwargs)
        scheduler, family = self.scheduler, self.family
        # By name: what the forward takes by position only is the network itself.
        arguments = {
            name: value for name, value in _name_arguments(bound).items() if name != "self"
        }
        if scheduler.is_idle():
            raise UserError(
                "another pipeline uses the network inside an asynchronous context: call it outside"
            )
        if scheduler.rungs is None:
            self.check_call()
            scheduler.begin(
                family.grid(network, arguments), getattr(self.pipe, "_num_timesteps", None)
            )
        if family.batch(arguments) % len(scheduler.images):
            raise UserError(
                f"the network's batch is {family.batch(arguments)}, but {len(scheduler.images)} "
                "prompts were stated: give num_images_per_prompt to asyndm as well"
            )
        denoises = network is find_denoiser(self.pipe)
        first = denoises and not scheduler.evaluated
        if denoises and self.guide is not None:
            arguments = dict(self.guide.enter(arguments, first))
        copies = family.batch(arguments) // len(scheduler.images)
        if denoises and self._is_read(first):
            self._listen(copies, arguments)
        given = torch.as_tensor(arguments[family.timestep])
        arguments[family.timestep] = self._timesteps(network, given, copies, arguments)
        return (), arguments

    def _is_read(self, first: bool) -> bool:
        """Whether a mask is made of this call's attention: of the first of a step, in which the
        prompt is, since a second one is that of the negative prompt; or of the guidance's last."""
        if self.reader is None:
            return False
        nested = self.guide is not None and self.guide.nested
        return self.guide.reads_prompt if self.guide is not None and nested else first

    def _timesteps(
        self, network: Module, given: Tensor, copies: int, arguments: Arguments
    ) -> Tensor:
        scheduler, family = self.scheduler, self.family
        assert scheduler.rungs is not None
        text: Tensor | None = None
        length: int | Sequence[int] = 0
        if family.text_first is not None:
            text = scheduler.ladder.network_timestep(
                choose_text_rungs(scheduler.rungs, self.text_level)
            )
            length = family.text_length(arguments)
        timesteps = scheduler.ladder.network_timestep(scheduler.rungs)
        return make_time_rows(
            timesteps,
            lambda rows: family.convert(network, rows, given),
            network=type(network).__name__,
            copies=copies,
            picture=family.picture,
            text=text,
            text_length=length,
            text_first=bool(family.text_first),
            padding=family.padding(network, arguments),
            wrap=self._compiled[network].insert if network in self._compiled else None,
        )

    def _listen(self, copies: int, arguments: Arguments) -> None:
        count, rungs = len(self.scheduler.images), self.scheduler.rungs
        assert rungs is not None and self.reader is not None
        grid = self.family.map_size(self.reader, (rungs.shape[-2], rungs.shape[-1]))
        if self.guide is None:
            first = self.family.conditional(copies, self.pipe) * count
        else:
            first = self.guide.rows.cond.start
        joint = self.family.text_first is not None
        lengths = self.family.text_length(arguments) if joint else None
        self.reader.listen(slice(first, first + count), grid, lengths)
        if self._compiled:
            length = self.family.text_length(arguments)
            self.reader.prepare(length if isinstance(length, int) else max(length), rungs.device)

    def _check_output(self, network: Module, args: object, kwargs: Arguments, output: Any) -> Any:
        """Count the call. Its output must be a plain tensor of the batch: levels that went through
        as a batch are a wrong picture. The pipeline gets the rows it has asked for; None: as they
        are."""
        whole: Any = output[0] if isinstance(output, tuple) else next(iter(output.values()), None)
        made = whole
        while isinstance(made, (list, tuple)) and made:
            made = made[0]
        batch = self.family.batch(kwargs)  # all by name since `_insert_timesteps`
        if isinstance(made, TimeRows) or (isinstance(whole, Tensor) and len(whole) != batch):
            raise UserError(
                f"{type(network).__name__} let the timesteps of its tokens through to its output: "
                "it uses time in a way that is not known"
            )
        if network is find_denoiser(self.pipe):
            self.scheduler.count(batch)
            if self.reader is not None:
                self.reader.ignore()
            if self.guide is not None and (given := self.guide.leave(whole)) is not whole:
                if isinstance(output, tuple):
                    return (given, *output[1:])
                return type(output)(**{**output, next(iter(output)): given})
        return None

    def _read_maps(self) -> Tensor | None:
        return None if self.reader is None else self.reader.maps()


@contextmanager
def hold_network(network: Module) -> Iterator[None]:
    """The network is this thread's alone; another one waits for its turn.

    Raises:
        UserError: it is this thread's already.
    """
    with _registry:
        lock = _locks.setdefault(network, threading.Lock())
    if _holders.get(network) == threading.get_ident():
        raise UserError("this pipeline is asynchronous already: leave that context first")
    with lock:
        _holders[network] = threading.get_ident()
        try:
            yield
        finally:
            del _holders[network]


def choose_text_rungs(rungs: Tensor, text_level: str) -> Tensor:
    """(B,) where the text of each image stands; exactly the common rung where all its tokens have
    one."""
    flat = rungs.flatten(1)
    if text_level == "mean":
        low = flat.amin(1)
        return low + (flat - low[:, None]).mean(1)
    return flat.amax(1) if text_level == "slowest" else flat.amin(1)


@contextmanager
def watch_pictures(pipe: Pipeline, broken: list[list[bool]]) -> Iterator[None]:
    """Notes which pictures are no numbers throughout, each time the pipeline turns pixels to its
    output.

    Beyond that point NaN is black and infinity white. Latents that overflowed come out of the
    autoencoder so as well.
    """
    processor = getattr(pipe, "image_processor", None)
    if processor is None:
        yield
        return
    stock: Callable[..., Images] = processor.postprocess

    def postprocess(image: object, *args: object, **kwargs: object) -> Images:
        if isinstance(image, Tensor):
            broken.append((~torch.isfinite(image).flatten(1).all(1)).tolist())
        return stock(image, *args, **kwargs)

    processor.postprocess = postprocess
    try:
        yield
    finally:
        del processor.postprocess


def _name_arguments(bound: inspect.BoundArguments) -> Arguments:
    """All arguments by name, those of ``**kwargs`` among them."""
    named = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named
