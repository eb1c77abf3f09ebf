"""What a user may ask of ``sample``, checked and brought into one form before any network runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch._dynamo import OptimizedModule
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence

from asyndm.conditioning.unet import PerPixelTime
from asyndm.curves import Curve
from asyndm.errors import UserError, is_number, is_whole
from asyndm.masks import Mask
from asyndm.subjects import Subject, as_subject

Subjects = Sequence[str | Subject]
PIPELINE_PARTS = (
    "vae",
    "tokenizer",
    "encode_prompt",
    "maybe_convert_prompt",
    "run_safety_checker",
    "image_processor",
    "maybe_free_model_hooks",
)
"""What sampling uses of a pipeline beside its network."""


def check_pipeline(pipe: Any) -> None:
    """Refuse anything but a text-to-image pipeline around an uncompiled ``UNet2DConditionModel`` with plain time."""
    unet = getattr(pipe, "unet", None)
    if isinstance(unet, Module) and any(_is_compiled(module) for module in unet.modules()):
        raise UserError(
            "pipe.unet is compiled by torch.compile, which leaves out hooks: give the network as it was loaded "
            "(after pipe.unet = torch.compile(pipe.unet) that is pipe.unet._orig_mod)"
        )
    if not isinstance(unet, UNet2DConditionModel) or not all(hasattr(pipe, name) for name in PIPELINE_PARTS):
        raise UserError(f"pipe must be a StableDiffusionPipeline, got {type(pipe).__name__}")
    if pipe._execution_device.type == "mps":
        raise UserError(
            "the pipeline is on mps, which has no float64, and timesteps need it: use pipe.to('cpu')"
        )
    channels, latent = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latent:
        raise UserError(
            f"the network takes {channels} channels but the autoencoder has {latent}: "
            "only text-to-image models are supported (no inpainting, no upscaling)"
        )
    PerPixelTime(unet)  # refuses a network that uses time in another way


def _is_compiled(module: Module) -> bool:
    """Compiled as a wrapper (``torch.compile(module)``) or in place (``module.compile()``)."""
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


def prompt_list(prompt: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list."""
    wrong = f"prompt must be a text or a non-empty list of texts, got {prompt!r}"
    prompts = [prompt] if isinstance(prompt, str) else _listed(prompt, wrong)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError(wrong)
    return prompts


def negative_list(negative_prompt: str | Sequence[str] | None, count: int) -> list[str]:
    """One negative prompt for each image."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    wrong = f"negative_prompt must be a text or a list of texts, got {negative_prompt!r}"
    negatives = _listed(negative_prompt, wrong)
    if not all(isinstance(text, str) for text in negatives):
        raise UserError(wrong)
    if len(negatives) != count:
        raise UserError(
            f"negative_prompt has {len(negatives)} entries for {count} prompts: give one, or one each"
        )
    return negatives


def subject_lists(subjects: Subjects | Sequence[Subjects] | None, count: int) -> list[list[Subject]]:
    """One list of subjects for each image; a flat list holds for every image."""
    if subjects is None:
        return [[] for _ in range(count)]
    wrong = f"subjects must be words of the prompt, or a list of them for each prompt, got {subjects!r}"
    entries: list[Any] = [subjects] if _is_subject(subjects) else _listed(subjects, wrong)
    flat = [_is_subject(entry) for entry in entries]
    if any(flat) and not all(flat):
        raise UserError("subjects must be one list of words, or one list for each prompt, not a mixture")
    lists = [entries] * count if all(flat) else [_listed(entry, wrong) for entry in entries]
    if not all(_is_subject(word) for words in lists for word in words):
        raise UserError(wrong)
    if len(lists) != count:
        raise UserError(f"subjects has {len(lists)} lists for {count} prompts: give one list for each prompt")
    return [[as_subject(word) for word in words] for words in lists]


def check_subjects(subjects: Sequence[Sequence[Subject]], mask: Mask) -> None:
    """Refuse a prompt without subjects where the mask needs them."""
    missing = [i + 1 for i, entries in enumerate(subjects) if not entries]
    if mask.needs_subjects and missing:
        raise UserError(
            f"mask {mask.name!r} needs subjects, but prompt {missing[0]} has none: "
            "name words of the prompt, or use the mask none or global"
        )


def concavities(subjects: Sequence[Sequence[Subject]], curve: Curve) -> Tensor:
    """(B, S) float64, each subject's ω (else the curve's), -1 beyond an image's last; one ω where there is no subject."""
    table = [
        [curve.concavity if s.concavity is None else s.concavity for s in entries] for entries in subjects
    ]
    rows = [torch.tensor(row or [curve.concavity], dtype=torch.float64) for row in table]
    return pad_sequence(rows, batch_first=True, padding_value=-1.0)


def seed_list(seed: int | Sequence[int], prompts: Sequence[str]) -> list[int]:
    """One seed for each image: a single seed counts up over the images of the same prompt."""
    wrong = f"seed must be a whole number from 0 to 2^63 - 1, or a list of them, got {seed!r}"
    seeds: list[Any] = [seed] if isinstance(seed, Integral) else _listed(seed, wrong)
    if not all(is_whole(s) and 0 <= s < 2**63 for s in seeds):
        raise UserError(wrong)
    if isinstance(seed, Integral):
        return [int(seed) + prompts[:i].count(text) for i, text in enumerate(prompts)]
    if len(seeds) != len(prompts):
        raise UserError(f"seed has {len(seeds)} entries for {len(prompts)} prompts: give one, or one each")
    return [int(s) for s in seeds]


def latent_scale(vae: Mapping[str, Any]) -> int:
    """Pixels a side of one latent pixel, from the autoencoder's config."""
    scale: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return scale


def latent_size(
    unet: Mapping[str, Any], vae: Mapping[str, Any], height: int | None, width: int | None
) -> tuple[int, int]:
    """(H, W) of the latents for a size in pixels, None: the model's own; from the configs of its two networks.

    Both must be divisible by the factor between the network's finest and coarsest grids.
    """
    native = unet["sample_size"]
    native = (native, native) if isinstance(native, int) else tuple(native)
    scale = latent_scale(vae)
    factor = 2 ** (len(unet["block_out_channels"]) - 1)
    size = []
    for name, value, default in zip(("height", "width"), (height, width), native, strict=True):
        value = default * scale if value is None else value
        if not is_whole(value) or value < 1 or value % (scale * factor):
            raise UserError(
                f"{name} must be a positive multiple of {scale * factor} for this model, got {value!r}"
            )
        size.append(value // scale)
    return size[0], size[1]


def check_method(curve: Any, mask: Any, callback: Any) -> None:
    """Refuse a curve, mask or callback of another kind: a class instead of an object of it, a name."""
    for setting, value, kind, example in (
        ("curve", curve, Curve, "asyndm.Quadratic(0.5)"),
        ("mask", mask, Mask, "asyndm.DynamicMask()"),
    ):
        if not isinstance(value, kind):
            raise UserError(f"{setting} must be a {kind.__name__} such as {example}, got {value!r}")
    if callback is not None and not callable(callback):
        raise UserError(f"callback must be a function of a StepRecord, or None, got {callback!r}")


def check_guidance(guidance_scale: float) -> None:
    """Refuse a guidance scale that is not a finite number of at least 0."""
    if not is_number(guidance_scale) or not math.isfinite(guidance_scale) or guidance_scale < 0:
        raise UserError(
            f"guidance_scale must be a number of at least 0 (1: no guidance), got {guidance_scale!r}"
        )


def ddim_scheduler(scheduler: Any) -> Any:
    """DDIM with another scheduler's noise levels; the other one is left alone.

    A config that says nothing of ``clip_sample`` (PNDM's, that of every Stable Diffusion checkpoint) means no
    clipping, where DDIM's own default would clip the latents.
    """
    config = dict(scheduler.config)
    if "beta_schedule" not in config and "trained_betas" not in config:
        raise UserError(
            f"{type(scheduler).__name__} has no noise levels of a diffusion model (no beta_schedule)"
        )
    config.setdefault("clip_sample", False)
    return DDIMScheduler.from_config(config)


def _is_subject(value: Any) -> bool:
    return isinstance(value, str | Subject)


def _listed(value: Any, wrong: str) -> list[Any]:
    """Anything that can be iterated as a list; else an error of these words."""
    try:
        return list(value)
    except TypeError:
        raise UserError(wrong) from None
