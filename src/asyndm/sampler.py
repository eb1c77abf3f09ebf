"""Sampling with a stock pipeline: it runs its own call, with scheduler and timesteps for that call
ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm import inputs
from asyndm.attention import Reading
from asyndm.curves import Curve, Quadratic
from asyndm.errors import UserError
from asyndm.masks import DynamicMask, Mask, NoMask
from asyndm.networks import Family, denoiser
from asyndm.scheduler import AsynchronousScheduler, Method, StepRecord, habit
from asyndm.session import Session, finite_pictures, held
from asyndm.subjects import Subject

DEFAULT_CURVE = Quadratic(0.5)
DEFAULT_MASK = DynamicMask()
QUIET = ("callback_on_step_end", "callback")
"""Arguments of a pipeline that a rehearsal goes without: it is not told to the user."""


class BrokenImages(UserError):
    """Some images came out as no numbers.

    Attributes:
        images: all that were made, in order, None for each broken one; from a context, whose
            pictures are the user's already, True for each whole one.
    """

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = list(images)
        broken = ", ".join(str(i) for i, image in enumerate(self.images) if image is None)
        super().__init__(
            f"images {broken} came out as no numbers (NaN or infinite): load the pipeline in "
            "float32"
        )


@dataclass(frozen=True)
class Settings:
    """How to sample, whatever the prompts; see `sample`."""

    curve: Curve
    mask: Mask
    eta: float | None
    reading: Reading
    text_level: str
    callback: Callable[[StepRecord], None] | None

    def __post_init__(self) -> None:
        inputs.check_method(self.curve, self.mask, self.callback, self.eta, self.text_level)


@dataclass(frozen=True)
class Request:
    """What is asked of a pipeline for some images.

    Args:
        subjects: of each image.
        tokens: for each image, for each subject, its token positions; None where no mask is made of
            attention.
        images: which of all images asked for these are.
        rehearsed: (B, S, h, w) attention maps that a mask found beforehand is made of.
    """

    pipe: Any
    family: Family
    settings: Settings
    subjects: Sequence[Sequence[Subject]]
    tokens: Sequence[Sequence[Sequence[int]]] | None
    images: range
    rehearsed: Tensor | None = None

    def part(self, images: range) -> Request:
        """The request for some of the images."""
        part = slice(images.start, images.stop)
        tokens = None if self.tokens is None else self.tokens[part]
        settings = replace(self.settings, mask=self.settings.mask.select(images, len(self.images)))
        return replace(
            self, images=images, subjects=self.subjects[part], tokens=tokens, settings=settings
        )

    def session(
        self, generators: Sequence[torch.Generator] | None = None, read: bool | None = None
    ) -> AbstractContextManager[None]:
        """The pipeline is asynchronous inside; its attention is read where the mask follows it, or
        as told."""
        settings = self.settings
        method = Method(
            settings.curve,
            settings.mask,
            inputs.concavities(self.subjects, settings.curve),
            self.rehearsed,
        )
        scheduler = AsynchronousScheduler(
            self.pipe.scheduler,
            method,
            eta=settings.eta,
            callback=settings.callback,
            images=self.images,
            generators=generators,
        )
        reader = None
        if self.tokens is not None and (settings.mask.follows_attention if read is None else read):
            reader = self.family.attention(denoiser(self.pipe), self.tokens, settings.reading)
        return Session(self.pipe, self.family, scheduler, reader, settings.text_level).open()

    def rehearse(self, call: Callable[[], Any], generators: Sequence[torch.Generator]) -> Request:
        """The request with the mean of all attention maps of a synchronous call from the same
        noise."""
        maps: list[Tensor] = []

        def keep(record: StepRecord) -> None:
            if record.maps is not None:
                maps.append(record.maps)

        synchronous = replace(self.settings, mask=NoMask(), callback=keep)
        with replace(self, settings=synchronous).session(generators, read=True):
            call()
        return replace(self, rehearsed=torch.stack(maps).mean(0))


def make_request(
    pipe: Any,
    family: Family,
    prompts: Sequence[str],
    subjects: Any,
    copies: int,
    settings: Settings,
    arguments: Mapping[str, Any],
) -> Request:
    """Checks what is asked before any network runs; each prompt is for ``copies`` images.

    Raises:
        UserError: any bad input.
    """
    words = inputs.subject_lists(subjects, len(prompts))
    tokens: list[list[list[int]]] | None = None
    if settings.mask.needs_subjects:
        inputs.check_subjects(words, settings.mask)
        tokens = []
        for i, (prompt, said) in enumerate(zip(prompts, words, strict=True)):
            own = {name: _own(name, value, i) for name, value in arguments.items()}
            found = family.positions(pipe, prompt, said, settings.reading, own)
            # One left out for lying beyond reach must own no pixel: without tokens its map is
            # nought everywhere.
            words[i] = [subject for subject, places in zip(said, found, strict=True) if places]
            tokens += [[places for places in found if places]] * copies
        family.attention(
            denoiser(pipe), tokens, settings.reading
        )  # refuses layers that are not there
    each = [said for said in words for _ in range(copies)]
    images = range(len(each))
    return Request(pipe, family, settings, each, tokens, images).part(images)


@torch.no_grad()
def sample(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None = None,
    *,
    curve: Curve = DEFAULT_CURVE,
    mask: Mask = DEFAULT_MASK,
    num_inference_steps: int | None = None,
    num_images_per_prompt: int = 1,
    eta: float | None = None,
    seed: int | Sequence[int] = 0,
    attention_factor: int | None = None,
    attention_layers: Sequence[int] | None = None,
    attention_keys: str = "joint",
    attention_text: str = "both",
    text_level: str = "mean",
    batch_invariant: bool | None = None,
    output_type: str = "pil",
    callback: Callable[[StepRecord], None] | None = None,
    **arguments: Any,
) -> Any:
    """Sample images with a stock diffusers pipeline, which is left untouched.

    Args:
        pipe: any pipeline that docs/models.md lists. Its scheduler gives the noise levels; the step
            is DDIM's or, for flow matching, Euler's.
        prompt: a text, or one for each image.
        subjects: the words or phrases that must align ("dog", "dog#2" for the second, or
            ``Subject``), or a list of them for each prompt. Needed by the dynamic and the static
            mask.
        curve: the concave schedule of the subjects' pixels; by default quadratic, ω = 0.5.
        mask: which pixels those are: ``NoMask`` is DM, ``GlobalMask`` DM_concave, ``DynamicMask``
            AsynDM.
        num_inference_steps: N, network evaluations (twice that for ``StaticMask``); None: the
            pipeline's own.
        num_images_per_prompt: images of each prompt, one after another.
        eta: η in [0, 1]: 0 deterministic, 1 as noisy as DDPM; None: 0 for flow matching, else 1.
        seed: of the first image of each prompt, whose further images count up from it; or one for
            each image. An image is a function of its seed, prompt, subjects and these settings, not
            of the batch's order.
        attention_factor, attention_layers, attention_keys, attention_text: what masks are made of,
        see ``Reading``.
        text_level: where joint text tokens stand: at the "mean" of the image's, or with its
            "slowest" or "fastest".
        batch_invariant: call the pipeline for one image after another, so that an image is the same
            to the bit alone and in any batch. False: once for all, which is faster and differs by
            rounding. None: on the CPU only.
        output_type: "pil", "pt", "np" or "latent", as of the pipeline.
        callback: called after each step; its record says of which images.
        arguments: all else is the pipeline's own and means what it means there: ``guidance_scale``,
            ``negative_prompt``, ``height``, ``image``, ``callback_on_step_end``, ...

    Returns:
        What the pipeline returns as images: a list of PIL images, or one tensor or array.

    Raises:
        UserError: any bad input, before the first network evaluation.
        BrokenImages: pixels that are no numbers ("latent" returns them as they are).
    """
    reading = Reading(attention_factor, attention_layers, attention_keys, attention_text)
    settings = Settings(curve, mask, eta, reading, text_level, callback)
    prompts = inputs.check_prompts(prompt, num_images_per_prompt, arguments)
    seeds = inputs.seed_list(seed, [text for text in prompts for _ in range(num_images_per_prompt)])
    family = inputs.check_pipeline(pipe)
    with held(denoiser(pipe)):
        inputs.check_call(pipe, num_inference_steps, output_type, arguments)
        inputs.check_pictures(pipe, arguments, len(prompts), num_images_per_prompt)
        settings = replace(settings, eta=habit(pipe.scheduler, eta))
        request = make_request(
            pipe, family, prompts, subjects, num_images_per_prompt, settings, arguments
        )
        if num_inference_steps is not None:
            arguments["num_inference_steps"] = num_inference_steps
        one_by_one = (
            pipe._execution_device.type == "cpu" if batch_invariant is None else batch_invariant
        )
        groups = [range(i, i + 1) for i in request.images] if one_by_one else [request.images]
        texts = [
            inputs.Texts(prompts, num_images_per_prompt, images, arguments) for images in groups
        ]
        return _call_each(request, texts, seeds, output_type)


def _call_each(
    request: Request, batches: Sequence[inputs.Texts], seeds: Sequence[int], output_type: str
) -> Any:
    """The images of all batches, one after another.

    Raises:
        BrokenImages: some are no numbers.
    """
    made: list[Any] = []
    broken: list[bool] = []
    for texts in batches:
        flags: list[list[bool]] = []
        own = [seeds[i] for i in texts.images]
        made.append(_call(request.part(texts.images), texts, own, output_type, flags))
        # The last time counts: a safety checker looks at pictures before the pipeline is done with
        # them.
        broken += flags[-1] if flags else [False] * len(texts.images)
    if any(broken) and output_type != "latent":
        flat = [image for batch in made for image in batch]
        raise BrokenImages(
            [None if bad else image for image, bad in zip(flat, broken, strict=True)]
        )
    return _joined(made)


def _own(name: str, value: Any, place: int) -> Any:
    """What of a list of further prompts is one prompt's."""
    return (
        value[place] if inputs.TEXT.fullmatch(name) and isinstance(value, (list, tuple)) else value
    )


def _call(
    request: Request,
    texts: inputs.Texts,
    seeds: Sequence[int],
    output_type: str,
    broken: list[list[bool]],
) -> Any:
    """The pipeline's images of one batch; which are broken is added to the list each time the
    pipeline makes pixels."""
    pipe = request.pipe

    def generators() -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def call(output_type: str, **more: Any) -> Any:
        return pipe(**{**texts.arguments(pipe), **more, "output_type": output_type}).images

    device = pipe._execution_device
    try:
        # Some pipelines draw from torch's own generator (SD3's ControlNet).
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if request.settings.mask.rehearses:
                torch.manual_seed(seeds[0])
                own = generators()
                quiet = dict.fromkeys(set(QUIET) & set(texts.others))
                request = request.rehearse(lambda: call("latent", generator=own, **quiet), own)
            torch.manual_seed(seeds[0])
            own = generators()
            with request.session(own), finite_pictures(pipe, broken):
                return call(output_type, generator=own)
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise


@contextmanager
def asynchronous(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None = None,
    *,
    curve: Curve = DEFAULT_CURVE,
    mask: Mask = DEFAULT_MASK,
    num_images_per_prompt: int = 1,
    eta: float | None = None,
    attention_factor: int | None = None,
    attention_layers: Sequence[int] | None = None,
    attention_keys: str = "joint",
    attention_text: str = "both",
    text_level: str = "mean",
    callback: Callable[[StepRecord], None] | None = None,
    **arguments: Any,
) -> Iterator[None]:
    """A stock pipeline, called by the user inside the context, samples asynchronously.

    Example::

        with asyndm.asynchronous(pipe, prompt, subjects=["rabbit"]):
            images = pipe(prompt, num_inference_steps=50).images

    Args:
        prompt, num_images_per_prompt: those of the pipeline's call, as its subjects are found in
        them.
        eta: None: what the pipeline's call says, or where its scheduler takes none, as that one
            draws noise.
        arguments: those of the pipeline's call that say how a prompt is read (``prompt_3``,
            ``max_sequence_length``).

    All else as in `sample`. Masks that need a whole run first (``StaticMask``) are refused:
    `sample` makes both. The pipeline's attention is read, and its pixels are checked, in each call
    inside the context.

    Raises:
        UserError: any bad input; inside the context, another number of images than stated here.
        BrokenImages: on leaving the context, if pixels were no numbers.
    """
    reading = Reading(attention_factor, attention_layers, attention_keys, attention_text)
    settings = Settings(curve, mask, eta, reading, text_level, callback)
    if mask.rehearses:
        raise UserError(
            f"mask {mask.name!r} needs a whole run before the run: use asyndm.sample, which makes "
            "both"
        )
    prompts = inputs.check_prompts(prompt, num_images_per_prompt, arguments)
    family = inputs.check_pipeline(pipe)
    inputs.check_names(pipe, arguments)
    broken: list[list[bool]] = []
    with held(denoiser(pipe)):
        request = make_request(
            pipe, family, prompts, subjects, num_images_per_prompt, settings, arguments
        )
        with request.session(), finite_pictures(pipe, broken):
            yield
    if broken and any(broken[-1]):
        raise BrokenImages([None if bad else True for bad in broken[-1]])


def _joined(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    return (
        np.concatenate(batches)
        if isinstance(first, np.ndarray)
        else [image for batch in batches for image in batch]
    )
