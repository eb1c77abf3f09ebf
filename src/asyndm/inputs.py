"""What a user may ask of ``sample``, checked and brought into one form before any network runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asyndm.curves import Curve
from asyndm.errors import UserError
from asyndm.masks import Mask
from asyndm.subjects import Subject, as_subject

Subjects = Sequence[str | Subject]


def check_pipeline(pipe: Any) -> None:
    """Refuse anything but a text-to-image pipeline around a ``UNet2DConditionModel``."""
    if not isinstance(getattr(pipe, "unet", None), UNet2DConditionModel) or not hasattr(
        pipe, "encode_prompt"
    ):
        raise UserError(f"pipe must be a StableDiffusionPipeline, got {type(pipe).__name__}")
    channels, latent = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latent:
        raise UserError(
            f"the network takes {channels} channels but the autoencoder has {latent}: "
            "only text-to-image models are supported (no inpainting, no upscaling)"
        )


def prompt_list(prompt: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError(f"prompt must be a text or a non-empty list of texts, got {prompt!r}")
    return prompts


def negative_list(negative_prompt: str | Sequence[str] | None, count: int) -> list[str]:
    """One negative prompt for each image."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    if len(negative_prompt) != count:
        raise UserError(
            f"negative_prompt has {len(negative_prompt)} entries for {count} prompts: give one, or one each"
        )
    return list(negative_prompt)


def subject_lists(subjects: Subjects | Sequence[Subjects] | None, count: int) -> list[list[Subject]]:
    """One list of subjects for each image; a flat list holds for every image."""
    if subjects is None:
        return [[] for _ in range(count)]
    if isinstance(subjects, (str, Subject)):
        subjects = [subjects]
    flat = [isinstance(entry, (str, Subject)) for entry in subjects]
    if all(flat):
        return [[as_subject(entry) for entry in subjects] for _ in range(count)]  # type: ignore[arg-type]
    if any(flat):
        raise UserError("subjects must be one list of words, or one list for each prompt, not a mixture")
    if len(subjects) != count:
        raise UserError(
            f"subjects has {len(subjects)} lists for {count} prompts: give one list for each prompt"
        )
    return [[as_subject(entry) for entry in entries] for entries in subjects]  # type: ignore[union-attr]


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
    if isinstance(seed, int):
        seeds = [seed + prompts[:i].count(text) for i, text in enumerate(prompts)]
    else:
        seeds = list(seed)
        if len(seeds) != len(prompts):
            raise UserError(
                f"seed has {len(seeds)} entries for {len(prompts)} prompts: give one, or one each"
            )
    if not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**63 for s in seeds):
        raise UserError(f"seed must be a whole number of at least 0, got {seed!r}")
    return seeds


def latent_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """(H, W) of the latents; both must be divisible by the factor between the network's finest and coarsest grids."""
    native = pipe.unet.config.sample_size
    native = (native, native) if isinstance(native, int) else tuple(native)
    scale = pipe.vae_scale_factor
    factor = 2**pipe.unet.num_upsamplers
    size = []
    for name, value, default in zip(("height", "width"), (height, width), native, strict=True):
        value = default * scale if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % (scale * factor):
            raise UserError(
                f"{name} must be a positive multiple of {scale * factor} for this model, got {value!r}"
            )
        size.append(value // scale)
    return size[0], size[1]


def check_guidance(guidance_scale: float) -> None:
    """Refuse a guidance scale that is not a finite number of at least 0."""
    number = isinstance(guidance_scale, (int, float)) and not isinstance(guidance_scale, bool)
    if not number or not math.isfinite(guidance_scale) or guidance_scale < 0:
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
