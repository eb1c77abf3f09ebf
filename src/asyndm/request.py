"""What is asked of a pipeline, checked, and the asynchronous calls of it that answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asyndm import inputs
from asyndm.attention import Reading
from asyndm.counts import count_things
from asyndm.curves import Curve
from asyndm.guidance.base import Guidance
from asyndm.guidance.checks import (
    check_called_scale,
    check_choices,
    check_guidance,
    find_guidance_scale,
)
from asyndm.guidance.evaluator import Evaluator
from asyndm.guidance.prompts import PromptTokens, read_prompt_tokens
from asyndm.masks import Mask, NoMask
from asyndm.method import Method, Rehearsal
from asyndm.networks import Family, find_denoiser, list_called
from asyndm.protocols import Arguments, Images, Pipeline
from asyndm.records import StepRecord
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from asyndm.solvers import Solver
from asyndm.subjects import Subject


class _Enough(Exception):
    """Ends a rehearsal before its last step."""


@dataclass(frozen=True)
class Settings:
    """How to sample, whatever the prompts; see `sample`.

    Args:
        rehearses: whether it is the run before the run.
    """

    curve: Curve
    mask: Mask
    guidance: Guidance
    solver: Solver
    eta: float | None
    reading: Reading
    text_level: str
    callback: Callable[[StepRecord], None] | None
    rehearses: bool = False

    def __post_init__(self) -> None:
        inputs.check_method(self.curve, self.mask, self.callback, self.eta, self.text_level)
        check_choices(self.guidance, self.solver)


@dataclass(frozen=True)
class Request:
    """What is asked of a pipeline for some images.

    Args:
        subjects: of each image.
        tokens: for each image, for each subject, its token positions; None where no mask is made of
            attention.
        images: which of all images asked for these are.
        arguments: of the pipeline's call, by which it guides.
        prompt_tokens: of each image, the words of its prompt; none unless the guidance needs them.
        rehearsal: the run before the run, of a mask that is found beforehand.
    """

    pipe: Pipeline
    family: Family
    settings: Settings
    subjects: Sequence[Sequence[Subject]]
    tokens: Sequence[Sequence[Sequence[int]]] | None
    images: range
    arguments: Arguments
    prompt_tokens: Sequence[PromptTokens] = ()
    rehearsal: Rehearsal | None = None

    def select(self, images: range) -> Request:
        """The request for some of the images."""
        part = slice(images.start, images.stop)
        tokens = None if self.tokens is None else self.tokens[part]
        settings = replace(self.settings, mask=self.settings.mask.select(images, len(self.images)))
        return replace(
            self,
            images=images,
            subjects=self.subjects[part],
            tokens=tokens,
            settings=settings,
            prompt_tokens=self.prompt_tokens[part],
        )

    def open_session(
        self, generators: Sequence[torch.Generator] | None = None, read: bool | None = None
    ) -> AbstractContextManager[None]:
        """The pipeline is asynchronous inside.

        Args:
            generators: of the images' noise, where the pipeline hands over none.
            read: whether its attention is read; None: where the mask follows it.
        """
        settings = self.settings
        concavities = inputs.make_concavities(self.subjects, settings.curve)
        method = Method(
            settings.curve, settings.mask, concavities, self.rehearsal, subjects=self.subjects
        )
        scheduler = AsynchronousScheduler(
            self.pipe.scheduler,
            method,
            solver=settings.solver,
            eta=settings.eta,
            callback=settings.callback,
            images=self.images,
            generators=generators,
        )
        reader = None
        if self.tokens is not None and (settings.mask.follows_attention if read is None else read):
            reader = self.family.attention(find_denoiser(self.pipe), self.tokens, settings.reading)
        guide = self._make_guide(scheduler)
        return Session(
            self.pipe,
            self.family,
            scheduler,
            reader,
            settings.text_level,
            guide,
            lambda: check_called_scale(self.pipe, settings.guidance),
        ).open()

    def _make_guide(self, scheduler: AsynchronousScheduler) -> Evaluator | None:
        """What evaluates the guidance; None where the pipeline itself does all of it."""
        guidance, network = self.settings.guidance, find_denoiser(self.pipe)
        if guidance.plain and self.settings.solver.evaluations == 1:
            return None
        return Evaluator(
            guidance,
            list_called(self.pipe)[0],
            self.family,
            scheduler,
            lambda: find_guidance_scale(self.pipe, self.family, self.arguments),
            self.family.conditional(2, self.pipe),
            guidance.make_probe(network, self.prompt_tokens),
            rehearses=self.settings.rehearses,
        )

    def rehearse(
        self, call: Callable[[], Images], generators: Sequence[torch.Generator]
    ) -> Request:
        """The request with what a synchronous call from the same noise, or the first steps of it,
        leaves for its mask."""
        maps: list[Tensor] = []
        last: StepRecord | None = None
        count_rehearsed = self.settings.mask.count_rehearsed

        def keep(record: StepRecord) -> None:
            nonlocal last
            last = record
            if record.maps is not None:
                maps.append(record.maps)
            if record.remaining and record.step >= count_rehearsed(record.step + record.remaining):
                raise _Enough

        synchronous = replace(self.settings, mask=NoMask(), callback=keep, rehearses=True)
        rehearsal = replace(self, settings=synchronous)
        with rehearsal.open_session(generators, read=True):
            try:
                call()
            except _Enough:
                self.pipe.maybe_free_model_hooks()  # as at the end of its call
        assert last is not None
        rows = last.evaluations, last.backward_evaluations
        return replace(self, rehearsal=Rehearsal(torch.stack(maps).mean(0), *rows))


def make_request(
    pipe: Pipeline,
    family: Family,
    call: inputs.CallArguments,
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None,
    settings: Settings,
) -> Request:
    """Checks what is asked before any network runs.

    Raises:
        UserError: any bad input.
    """
    words = inputs.list_subjects(subjects, len(call.prompts))
    tokens: list[list[list[int]]] | None = None
    spelled: list[PromptTokens] = []
    check_guidance(pipe, settings.guidance, settings.solver, call.others, settings.eta)
    chooser = settings.mask if settings.mask.needs_subjects else settings.guidance
    if chooser.needs_subjects:
        inputs.check_subjects(words, chooser)
        tokens = []
        for i, (prompt, named) in enumerate(zip(call.prompts, words, strict=True)):
            own = {name: _select_entry(name, value, i) for name, value in call.others.items()}
            found = family.positions(pipe, prompt, named, settings.reading, own)
            # One left out for lying beyond reach must own no pixel: without tokens its map is
            # nought everywhere.
            words[i] = [subject for subject, places in zip(named, found, strict=True) if places]
            tokens += [[places for places in found if places]] * call.copies
            if settings.guidance.needs_subjects:
                spelled += [read_prompt_tokens(family, pipe, prompt, words[i], own)] * call.copies
        # Made for nothing but its refusal of layers that are not there.
        family.attention(find_denoiser(pipe), tokens, settings.reading)
    words = [
        [replace(subject, count=count_things(prompt, subject)) for subject in named]
        for prompt, named in zip(call.prompts, words, strict=True)
    ]
    each = [named for named in words for _ in range(call.copies)]
    request = Request(pipe, family, settings, each, tokens, call.images, call.others, spelled)
    request = request.select(call.images)
    request.settings.mask.check(each)
    return request


def _select_entry(name: str, value: Any, prompt: int) -> Any:
    """Of a list of further prompts that which goes with this one; any other argument as it is."""
    listed = inputs.TEXT.fullmatch(name) and isinstance(value, (list, tuple))
    return value[prompt] if listed else value
