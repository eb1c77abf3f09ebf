"""What a user may ask of ``sample``, checked and brought into one form before any network runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asyndm.compilation import check_compiled
from asyndm.curves import Curve
from asyndm.errors import UserError, check_fraction, check_number, is_whole
from asyndm.guidance.base import Guidance
from asyndm.masks import Mask
from asyndm.networks import Family, find_denoiser, find_family, list_called
from asyndm.networks.base import read_call_parameters
from asyndm.protocols import Arguments, Pipeline
from asyndm.session import TEXT_LEVELS
from asyndm.subjects import Subject, as_subject

Subjects = Sequence[str | Subject]
OUTPUT_TYPES = ("pil", "pt", "np", "latent")
SCALES = ("guidance_scale", "true_cfg_scale")
RESERVED = {"generator": "seed", "return_dict": "output_type", "scheduler": "pipe.scheduler"}
"""Arguments of a pipeline that are set here, and what to use in their place."""
TEXT = re.compile(r"(negative_)?prompt(_\d)?")
"""Arguments of a pipeline that are texts, one or one for each prompt."""
USUAL = 1024
"""Pixels a side where neither a pipeline nor its network says what they were made for."""
PICTURES = ("image", "mask_image", "control_image", "masked_image_latents")
"""Arguments of a pipeline that may have an entry for each prompt, beside all those of prompts."""


def check_pipeline(pipe: Pipeline) -> Family:
    """The family that serves a pipeline.

    Raises:
        UserError: a class that is not served, or not compiled; a device without float64.
    """
    family = find_family(pipe)
    for network in list_called(pipe):
        check_compiled(network, family)
    if pipe._execution_device.type == "mps":
        raise UserError(
            "the pipeline is on mps, which has no float64, and timesteps need it: "
            "use pipe.to('cpu')"
        )
    return family


def check_call(pipe: Pipeline, steps: object, output_type: object, arguments: Arguments) -> None:
    """Refuse a number of steps, an output type or arguments that no call could take.

    Raises:
        UserError: one of them, or an IP-Adapter without its picture.
    """
    limit = pipe.scheduler.config.get("num_train_timesteps", 1000)
    if steps is not None and (not is_whole(steps) or not 1 <= steps <= limit):
        raise UserError(
            f"num_inference_steps must be a whole number from 1 to {limit}, got {steps!r}"
        )
    if output_type not in OUTPUT_TYPES:
        raise UserError(
            f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}"
        )
    for name, remedy in RESERVED.items():
        if name in arguments:
            raise UserError(f"{name} is set by asyndm.sample itself: use {remedy}")
    check_names(pipe, arguments)
    for name, value in arguments.items():
        if isinstance(value, float) or (name in SCALES and isinstance(value, (str, list, tuple))):
            check_number(value, name)
    if arguments.get("height") is not None or arguments.get("width") is not None:
        find_picture_size(pipe, arguments.get("height"), arguments.get("width"))
    adapted = getattr(find_denoiser(pipe).config, "encoder_hid_dim_type", None) == "ip_image_proj"
    if adapted and not {"ip_adapter_image", "ip_adapter_image_embeds"} & set(arguments):
        raise UserError(
            "the pipeline has an IP-Adapter: "
            "give its picture as ip_adapter_image, or call pipe.unload_ip_adapter()"
        )


def check_names(pipe: Pipeline, arguments: Arguments) -> None:
    """Refuse arguments that the pipeline's call does not have; of those that take ``**kwargs`` most
    ignore them."""
    parameters = read_call_parameters(pipe)
    if unknown := [name for name in arguments if name not in parameters or name == "kwargs"]:
        raise UserError(f"{type(pipe).__name__} takes no argument {unknown[0]!r}")


def check_prompts(
    prompt: str | Sequence[str] | None, copies: object, arguments: Arguments
) -> list[str]:
    """The prompts as a list, with all that must be one for each of them.

    Raises:
        UserError: no texts, or lists of other lengths.
    """
    if not is_whole(copies) or copies < 1:
        raise UserError(
            f"num_images_per_prompt must be a whole number of at least 1, got {copies!r}"
        )
    prompts = list_prompts(prompt, arguments)
    check_texts(arguments, len(prompts))
    embeddings = arguments.get("prompt_embeds")
    if embeddings is not None and len(embeddings) != len(prompts):
        raise UserError(
            f"prompt_embeds has {len(embeddings)} entries for {len(prompts)} prompts: "
            "give one for each"
        )
    return prompts


class CallArguments:
    """The prompts of a call with all other arguments of the pipeline, and which of its images are
    made.

    Args:
        prompts: all of them.
        copies: images of each prompt.
        others: the other arguments, for all images.
        images: those made now: all, or a single one; None: all.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        copies: int,
        others: Arguments,
        images: range | None = None,
    ) -> None:
        self.prompts, self.copies, self.others = prompts, copies, others
        self.images = range(len(prompts) * copies) if images is None else images

    def select(self, images: range) -> CallArguments:
        """The same call for some of its images."""
        return CallArguments(self.prompts, self.copies, self.others, images)

    def build(self, pipe: Pipeline) -> dict[str, Any]:
        """The arguments of the pipeline's call. Of a list with an entry for each prompt, or each
        image, one image takes its own.

        A text is given to each prompt, as pipelines want where prompts are a list; so is a single
        picture, which they would noise by the first image's generator alone.
        """
        count, total = len(self.prompts), len(self.prompts) * self.copies
        several_nets = hasattr(getattr(pipe, "controlnet", None), "nets")
        # With several ControlNets a list of pictures is one for each net.
        pictures = () if several_nets else PICTURES
        own: dict[str, Any] = {"prompt": list(self.prompts), **self.others}
        for name, value in own.items():
            is_text = TEXT.fullmatch(name) is not None
            is_picture = name in pictures and value is not None and not _is_batch(value)
            if (is_text and isinstance(value, str)) or (is_picture and total > 1):
                own[name] = [value] * count
            elif is_text and isinstance(value, list):
                own[name] = list(value)  # Z-Image writes its template into the lists it is given
            if len(self.images) < total and (
                name in pictures or name == "latents" or "prompt" in name
            ):
                own[name] = self._entry(own[name], count, total)
        # A call for one image of several has no say in how many there are.
        if len(self.images) == total:
            own["num_images_per_prompt"] = self.copies
        if self.others.get("prompt_embeds") is not None:
            own["prompt"] = None
        return own

    def _entry(self, value: Any, count: int, total: int) -> Any:
        """What of an argument is for the single image made now."""
        if not _is_batch(value) or len(value) not in (count, total):
            return value
        entry = self.images.start if len(value) == total else self.images.start // self.copies
        return value[entry : entry + 1]


def check_pictures(pipe: Pipeline, call: CallArguments) -> None:
    """Refuse lists of pictures or noises that are neither one for each prompt nor one for each
    image.

    Raises:
        UserError: another number of them.
    """
    count = len(call.prompts)
    if hasattr(getattr(pipe, "controlnet", None), "nets"):
        return
    for name in (*PICTURES, "latents"):
        value: Any = call.others.get(name)
        if _is_batch(value) and len(value) not in {1, count, count * call.copies}:
            raise UserError(
                f"{name} has {len(value)} entries for {count} prompts: give one, or one each"
            )


def _is_batch(value: Any) -> bool:
    """Whether it is a list, or a tensor or array of embeddings or pictures in a batch; (3, h, w) is
    a picture."""
    if isinstance(value, (list, tuple)):
        return True
    channels_first = isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] in (1, 3)
    return getattr(value, "ndim", 0) >= 2 and not _is_picture(value) and not channels_first


def _is_picture(value: object) -> bool:
    """Whether it is an array (h, w) or (h, w, 3)."""
    return isinstance(value, np.ndarray) and value.ndim <= 3


def find_picture_size(
    pipe: Pipeline, height: object = None, width: object = None
) -> tuple[int, int]:
    """Height and width of a pipeline's pictures in pixels; None: the model's own. Its weights are
    not looked at.

    Raises:
        UserError: a size that the pipeline would refuse, or silently round.
    """
    network, scale = find_denoiser(pipe), pipe.vae_scale_factor
    native = (
        getattr(pipe, "default_sample_size", None)
        or network.config.get("sample_size")
        or USUAL // scale
    )
    native = (native, native) if isinstance(native, int) else tuple(native)
    size = []
    for name, value, default in zip(("height", "width"), (height, width), native, strict=True):
        value = default * scale if value is None else value
        unit = _find_unit(pipe)
        if not is_whole(value) or value < 1 or value % unit:
            raise UserError(
                f"{name} must be a positive multiple of {unit} for this model, got {value!r}"
            )
        size.append(value)
    return size[0], size[1]


def _find_unit(pipe: Pipeline) -> int:
    """Pixels of which a picture's sides must be multiples: those of a token, but at least 8 as in
    every pipeline."""
    network, scale = find_denoiser(pipe), int(pipe.vae_scale_factor)
    is_unet = network is getattr(pipe, "unet", None)
    if is_unet or "use_resolution_binning" in read_call_parameters(pipe):
        return max(8, scale)
    # Packed latents: two by two of them are a token, whatever the network's own patch.
    packed = not network.config.get("sample_size")
    return scale * (2 if packed else network.config.get("patch_size") or 1)


def list_prompts(prompt: str | Sequence[str] | None, arguments: Arguments) -> list[str]:
    """One prompt or several, as a list; empty texts where only their embeddings are given."""
    embeddings = arguments.get("prompt_embeds")
    if embeddings is not None and not isinstance(embeddings, (Tensor, list)):
        raise UserError(f"prompt_embeds must be a tensor, got {embeddings!r}")
    if prompt is None and embeddings is not None:
        return [""] * len(embeddings)
    wrong = f"prompt must be a text or a non-empty list of texts, got {prompt!r}"
    prompts = [prompt] if isinstance(prompt, str) else _as_list(prompt, wrong)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError(wrong)
    return prompts


def check_texts(arguments: Arguments, count: int) -> None:
    """Refuse further prompts (``negative_prompt``, ``prompt_2``, ...) that are neither one text nor
    one for each."""
    for name, value in arguments.items():
        if value is None or isinstance(value, str) or not TEXT.fullmatch(name):
            continue
        if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
            raise UserError(f"{name} must be a text or a list of texts, got {value!r}")
        if len(value) != count:
            raise UserError(
                f"{name} has {len(value)} entries for {count} prompts: give one, or one each"
            )


def list_subjects(
    subjects: Subjects | Sequence[Subjects] | None, count: int
) -> list[list[Subject]]:
    """One list of subjects for each image; a flat list holds for every image."""
    if subjects is None:
        return [[] for _ in range(count)]
    wrong = (
        f"subjects must be words of the prompt, or a list of them for each prompt, got {subjects!r}"
    )
    entries: list[Any] = [subjects] if _is_subject(subjects) else _as_list(subjects, wrong)
    flat = [_is_subject(entry) for entry in entries]
    if any(flat) and not all(flat):
        raise UserError(
            "subjects must be one list of words, or one list for each prompt, not a mixture"
        )
    lists = [entries] * count if all(flat) else [_as_list(entry, wrong) for entry in entries]
    if not all(_is_subject(word) for words in lists for word in words):
        raise UserError(wrong)
    if len(lists) != count:
        raise UserError(
            f"subjects has {len(lists)} lists for {count} prompts: give one list for each prompt"
        )
    return [[as_subject(word) for word in words] for words in lists]


def check_subjects(subjects: Sequence[Sequence[Subject]], chooser: Mask | Guidance) -> None:
    """Refuse a prompt without subjects where the mask, or the guidance, needs them."""
    missing = [i + 1 for i, entries in enumerate(subjects) if not entries]
    if chooser.needs_subjects and missing:
        is_mask = isinstance(chooser, Mask)
        other = "use the mask none or global" if is_mask else "use the guidance cfg"
        raise UserError(
            f"{'mask' if is_mask else 'guidance'} {chooser.name!r} needs subjects, but prompt "
            f"{missing[0]} has none: name words of the prompt, or {other}"
        )


def make_concavities(subjects: Sequence[Sequence[Subject]], curve: Curve) -> Tensor:
    """(B, S) float64, each subject's ω (else the curve's), -1 beyond an image's last; one ω where
    there is no subject."""
    table = [
        [curve.concavity if s.concavity is None else s.concavity for s in entries]
        for entries in subjects
    ]
    rows = [torch.tensor(row or [curve.concavity], dtype=torch.float64) for row in table]
    return pad_sequence(rows, batch_first=True, padding_value=-1.0)


def list_seeds(seed: int | Sequence[int], prompts: Sequence[str], copies: int = 1) -> list[int]:
    """One seed for each of the ``copies`` images of each prompt: a single seed counts up over the
    images of the same prompt.

    Raises:
        UserError: no seeds, or another number of them than of images.
    """
    prompts = [text for text in prompts for _ in range(copies)]
    wrong = f"seed must be a whole number from 0 to 2^63 - 1, or a list of them, got {seed!r}"
    seeds: list[Any] = [seed] if isinstance(seed, Integral) else _as_list(seed, wrong)
    if not all(is_whole(s) and 0 <= s < 2**63 for s in seeds):
        raise UserError(wrong)
    if isinstance(seed, Integral):
        return [int(seed) + prompts[:i].count(text) for i, text in enumerate(prompts)]
    if len(seeds) != len(prompts):
        raise UserError(
            f"seed has {len(seeds)} entries for {len(prompts)} prompts: give one, or one each"
        )
    return [int(s) for s in seeds]


def check_method(
    curve: object, mask: object, callback: object, eta: object, text_level: object
) -> None:
    """Refuse a curve, mask or callback of another kind (a class instead of an object of it, a
    name), η out of range."""
    for setting, value, kind, example in (
        ("curve", curve, Curve, "asyndm.Quadratic(0.5)"),
        ("mask", mask, Mask, "asyndm.DynamicMask()"),
    ):
        if not isinstance(value, kind):
            raise UserError(f"{setting} must be a {kind.__name__} such as {example}, got {value!r}")
    if callback is not None and not callable(callback):
        raise UserError(f"callback must be a function of a StepRecord, or None, got {callback!r}")
    if eta is not None:
        check_fraction(eta, "eta")
    if text_level not in TEXT_LEVELS:
        raise UserError(f"text_level must be one of {', '.join(TEXT_LEVELS)}, got {text_level!r}")


def _is_subject(value: object) -> bool:
    return isinstance(value, str | Subject)


def _as_list(value: Any, wrong: str) -> list[Any]:
    """Anything that can be iterated as a list; else an error of these words."""
    try:
        return list(value)
    except TypeError:
        raise UserError(wrong) from None
