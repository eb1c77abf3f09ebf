"""Sampling with a stock pipeline: it runs its own call, with scheduler and timesteps for that call
ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm import inputs
from asyndm.attention import Reading
from asyndm.curves import Curve, Quadratic
from asyndm.errors import UserError
from asyndm.guidance import ClassifierFree, Guidance
from asyndm.guidance.checks import add_guidance, check_context
from asyndm.ladder import resolve_eta
from asyndm.masks import DynamicMask, Mask
from asyndm.networks import Family, find_denoiser
from asyndm.protocols import Images, Pipeline
from asyndm.records import StepRecord
from asyndm.request import Request, Settings, make_request
from asyndm.scheduler import DEFAULT_SOLVER
from asyndm.session import hold_network, watch_pictures
from asyndm.solvers import Solver

DEFAULT_CURVE = Quadratic(0.5)
DEFAULT_MASK = DynamicMask()
DEFAULT_GUIDANCE = ClassifierFree()
QUIET = ("callback_on_step_end", "callback")
"""Arguments of a pipeline that a rehearsal goes without: the user is not called for it."""


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
            f"images {broken} came out as no numbers (NaN or infinite): "
            "load the pipeline in float32"
        )


@torch.no_grad()
def sample(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None = None,
    *,
    curve: Curve = DEFAULT_CURVE,
    mask: Mask = DEFAULT_MASK,
    guidance: Guidance = DEFAULT_GUIDANCE,
    solver: Solver = DEFAULT_SOLVER,
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
) -> Images:
    """Sample images with a stock diffusers pipeline (docs/models.md), which is left untouched.

    Args:
        prompt: a text, or one for each image.
        subjects: the words or phrases that must align ("dog", "dog#2" for the second, or
            ``Subject``), or a list of them for each prompt. Masks made of attention need them.
        curve: the concave schedule of the subjects' pixels; by default quadratic, ω = 0.5.
        mask: which those are: ``NoMask`` is DM, ``GlobalMask`` DM_concave, ``DynamicMask`` AsynDM.
        guidance: what leads to the prompt (docs/guidance.md); by default the pipeline's own.
        solver: of the step between two levels (docs/solver.md); DDIM is Euler for a flow.
        num_inference_steps: N, twice that for masks that rehearse; None: the pipeline's own.
        eta: η in [0, 1]: 0 deterministic, 1 as noisy as DDPM; None: 0 for flow matching, else 1.
        seed: of the first image of each prompt, whose further images count up from it; or one for
            each image. An image depends on its seed, prompt, subjects and these settings alone.
        attention_factor, attention_layers, attention_keys, attention_text: see ``Reading``.
        text_level: joint text stands at the "mean" of the image, or with its "slowest", "fastest".
        batch_invariant: image after image, each the same to the bit in any batch. False: together,
            which is faster and differs by rounding. None: True on the CPU alone.
        output_type: "pil", "pt", "np" or "latent", as of the pipeline.
        callback: called with a ``StepRecord`` after each step.
        arguments: the pipeline's own, such as ``guidance_scale``, ``negative_prompt``, ``image``.

    Returns:
        What the pipeline returns as images: a list of PIL images, or one tensor or array.

    Raises:
        UserError: any bad input, before the first network evaluation.
        BrokenImages: pixels that are no numbers ("latent" returns them as they are).
    """
    reading = Reading(attention_factor, attention_layers, attention_keys, attention_text)
    settings = Settings(curve, mask, guidance, solver, eta, reading, text_level, callback)
    arguments = add_guidance(guidance, arguments)
    prompts = inputs.check_prompts(prompt, num_images_per_prompt, arguments)
    seeds = inputs.list_seeds(seed, prompts, num_images_per_prompt)
    family = inputs.check_pipeline(pipe)
    with hold_network(find_denoiser(pipe)):
        inputs.check_call(pipe, num_inference_steps, output_type, arguments)
        if num_inference_steps is not None:
            arguments["num_inference_steps"] = num_inference_steps
        call = inputs.CallArguments(prompts, num_images_per_prompt, arguments)
        return _sample(pipe, family, settings, call, subjects, seeds, batch_invariant, output_type)


def _sample(
    pipe: Pipeline,
    family: Family,
    settings: Settings,
    call: inputs.CallArguments,
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None,
    seeds: Sequence[int],
    batch_invariant: bool | None,
    output_type: str,
) -> Images:
    """The images, by one call of the pipeline or by one for each of them."""
    inputs.check_pictures(pipe, call)
    texts = [prompt for prompt in call.prompts for _ in range(call.copies)]
    mask = settings.mask.prepare(texts, seeds)
    settings = replace(settings, mask=mask, eta=resolve_eta(pipe.scheduler, settings.eta))
    request = make_request(pipe, family, call, subjects, settings)
    alone = pipe._execution_device.type == "cpu" if batch_invariant is None else batch_invariant
    groups = [range(i, i + 1) for i in request.images] if alone else [request.images]
    return _call_each(request, [call.select(images) for images in groups], seeds, output_type)


def _call_each(
    request: Request,
    batches: Sequence[inputs.CallArguments],
    seeds: Sequence[int],
    output_type: str,
) -> Images:
    """The images of all batches, one after another.

    Raises:
        BrokenImages: some are no numbers.
    """
    made: list[Images] = []
    broken: list[bool] = []
    for batch in batches:
        flags: list[list[bool]] = []
        own = [seeds[i] for i in batch.images]
        made.append(_call(request.select(batch.images), batch, own, output_type, flags))
        # The last time counts: a safety checker looks at pictures before the pipeline is done with
        # them.
        broken += flags[-1] if flags else [False] * len(batch.images)
    if any(broken) and output_type != "latent":
        flat = [image for images in made for image in images]
        whole = [None if bad else image for image, bad in zip(flat, broken, strict=True)]
        raise BrokenImages(whole)
    return _join(made)


def _call(
    request: Request,
    batch: inputs.CallArguments,
    seeds: Sequence[int],
    output_type: str,
    broken: list[list[bool]],
) -> Images:
    """The pipeline's images of one batch; which are broken is added to the list each time the
    pipeline makes pixels."""
    pipe = request.pipe

    def make_generators() -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def call(output_type: str, **more: object) -> Images:
        return pipe(**{**batch.build(pipe), **more, "output_type": output_type}).images

    device = pipe._execution_device
    try:
        # Some pipelines draw from torch's own generator (SD3's ControlNet).
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if request.settings.mask.rehearses:
                torch.manual_seed(seeds[0])
                own = make_generators()
                quiet = dict.fromkeys(set(QUIET) & set(batch.others))
                request = request.rehearse(lambda: call("latent", generator=own, **quiet), own)
            torch.manual_seed(seeds[0])
            own = make_generators()
            with request.open_session(own), watch_pictures(pipe, broken):
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
    guidance: Guidance = DEFAULT_GUIDANCE,
    solver: Solver = DEFAULT_SOLVER,
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
        guidance: its ``guidance_scale`` is to be given in the pipeline's call as well.
        arguments: those of the pipeline's call that say how a prompt is read (``prompt_3``,
            ``max_sequence_length``) and, for a guidance, how it guides (``true_cfg_scale``).

    All else as in `sample`. Masks that need a run first (``StaticMask``, ``ThingsMask``) are
    refused: `sample` makes both. The pipeline's attention is read, and its pixels are checked, in
    each call inside the context.

    Raises:
        UserError: any bad input; inside the context, another number of images than stated here.
        BrokenImages: on leaving the context, if pixels were no numbers.
    """
    reading = Reading(attention_factor, attention_layers, attention_keys, attention_text)
    settings = Settings(curve, mask, guidance, solver, eta, reading, text_level, callback)
    if mask.rehearses:
        raise UserError(
            f"mask {mask.name!r} needs a whole run before the run: "
            "use asyndm.sample, which makes both"
        )
    family = inputs.check_pipeline(pipe)
    check_context(pipe, guidance)
    arguments = add_guidance(guidance, arguments)
    prompts = inputs.check_prompts(prompt, num_images_per_prompt, arguments)
    inputs.check_names(pipe, arguments)
    broken: list[list[bool]] = []
    with hold_network(find_denoiser(pipe)):
        call = inputs.CallArguments(prompts, num_images_per_prompt, arguments)
        request = make_request(pipe, family, call, subjects, settings)
        with request.open_session(), watch_pictures(pipe, broken):
            yield
    if broken and any(broken[-1]):
        raise BrokenImages([None if bad else True for bad in broken[-1]])


def _join(batches: Sequence[Images]) -> Images:
    """The images of all batches, as the pipeline returns those of one: a list, a tensor or an
    array."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, np.ndarray):
        return np.concatenate(batches)
    return [image for batch in batches for image in batch]
