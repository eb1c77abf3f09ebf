"""Sampling with a stock Stable Diffusion pipeline: from what the user asks to images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from asyndm import inputs
from asyndm.algorithm import NextTimesteps, Schedule, StepRecord, denoise
from asyndm.curves import Curve, Horizon, Quadratic
from asyndm.errors import UserError, check_fraction
from asyndm.guided import GuidedNetwork
from asyndm.masks import DynamicMask, Mask, NoMask, Scene
from asyndm.steps import AlphaTable, Prediction
from asyndm.subjects import Subject, locate

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
DEFAULT_CURVE = Quadratic(0.5)
DEFAULT_MASK = DynamicMask()


@dataclass(frozen=True)
class Batch:
    """Everything of a batch of images but its mask: the same noise can be denoised under one mask after another.

    Args:
        network: makes the ``GuidedNetwork``, given ``tokens``.
        tokens: for each image, for each subject, its token positions.
        x: (B, C, H, W) initial noise.
        noise: (N, B, C, H, W), needed if eta > 0.
    """

    network: Callable[..., GuidedNetwork]
    tokens: Sequence[Sequence[Sequence[int]]]
    x: Tensor
    noise: Tensor | None
    scene: Scene
    horizon: Horizon
    schedule: NextTimesteps
    alphas: AlphaTable
    prediction: Prediction
    eta: float

    def run(
        self,
        mask: Mask,
        weights: Tensor,
        callback: Callable[[StepRecord], None] | None = None,
        read_attention: bool = False,
    ) -> Tensor:
        """The denoised latents (B, C, H, W), starting with these weights (B, S, H, W)."""
        tokens = self.tokens if read_attention or mask.follows_attention else None
        with self.network(tokens=tokens) as network:
            return denoise(
                network,
                self.x,
                weights,
                horizon=self.horizon,
                schedule=self.schedule,
                mask=mask,
                scene=self.scene,
                alphas=self.alphas,
                prediction=self.prediction,
                eta=self.eta,
                noise=self.noise,
                callback=callback,
            )

    def rehearse(self) -> Tensor:
        """The mean of all attention maps (B, S, h, w) of the synchronous method from the same noise."""
        maps: list[Tensor] = []

        def keep(record: StepRecord) -> None:
            if record.maps is not None:
                maps.append(record.maps)

        self.run(NoMask(), self.scene.weights(0.0), keep, read_attention=True)
        return torch.stack(maps).mean(0)


@torch.no_grad()
def sample(
    pipe: Any,
    prompt: str | Sequence[str],
    subjects: inputs.Subjects | Sequence[inputs.Subjects] | None = None,
    *,
    curve: Curve = DEFAULT_CURVE,
    mask: Mask = DEFAULT_MASK,
    num_inference_steps: int = 50,
    guidance_scale: float = 5.0,
    eta: float = 1.0,
    seed: int | Sequence[int] = 0,
    negative_prompt: str | Sequence[str] | None = None,
    height: int | None = None,
    width: int | None = None,
    attention_factor: int | None = None,
    batch_invariant: bool | None = None,
    output_type: str = "pil",
    callback: Callable[[StepRecord], None] | None = None,
) -> Any:
    """Sample one image for each prompt with a stock ``StableDiffusionPipeline``, which is left untouched.

    Args:
        pipe: any ``StableDiffusionPipeline``; only the noise levels of its scheduler are used, with DDIM.
        prompt: a text, or one for each image (repeat a text for several images of it).
        subjects: the words or phrases that must align ("dog", "dog#2" for the second, or ``Subject``), or a
            list of them for each prompt. Needed by the dynamic and the static mask.
        curve: the concave schedule of the subjects' pixels; by default quadratic, ω = 0.5.
        mask: which pixels those are: ``NoMask`` is DM, ``GlobalMask`` DM_concave, ``DynamicMask`` AsynDM.
        num_inference_steps: N, network evaluations (twice that for ``StaticMask``).
        guidance_scale: g; 1 is no guidance, at half the cost.
        eta: η of DDIM in [0, 1].
        seed: of the first image of each prompt, whose further images count up from it; or one for each image.
            An image is a function of its seed, prompt, subjects and these settings, not of the batch's order.
        negative_prompt: one for all images, or one each.
        height, width: in pixels; None: the model's own.
        attention_factor: latent size over attention map size; None: 4, or else the finest there is.
        batch_invariant: evaluate the network for one image after another, so that an image is the same to the bit
            alone and in any batch. False: together, which is faster and differs by rounding. None: on the CPU only.
        output_type: "pil", "pt" (B, 3, h, w) in [0, 1], "np" (B, h, w, 3), or "latent" (B, C, H, W) float32.
        callback: called after each step.

    Returns:
        A list of PIL images, or one tensor or array.

    Raises:
        UserError: any bad input, before the first network evaluation; or, after the last one, latents that are no
            numbers ("latent" returns them as they are).
    """
    inputs.check_pipeline(pipe)
    inputs.check_method(curve, mask, callback)
    inputs.check_guidance(guidance_scale)
    check_fraction(eta, "eta")
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
    prompts = inputs.prompt_list(prompt)
    seeds = inputs.seed_list(seed, prompts)
    negatives = inputs.negative_list(negative_prompt, len(prompts))
    chosen = inputs.subject_lists(subjects, len(prompts))
    inputs.check_subjects(chosen, mask)
    tokens = [_tokens(pipe, *pair) for pair in zip(prompts, chosen, strict=True)]
    size = inputs.latent_size(pipe.unet.config, pipe.vae.config, height, width)
    scheduler = inputs.ddim_scheduler(pipe.scheduler)
    horizon = Horizon(
        num_inference_steps, scheduler.config.num_train_timesteps, scheduler.config.steps_offset
    )
    device = pipe._execution_device

    cond, uncond = _encode(pipe, prompts, None if guidance_scale == 1 else negatives, device)
    network = partial(
        GuidedNetwork,
        pipe.unet,
        cond,
        uncond,
        guidance_scale,
        attention_factor=attention_factor,
        num_train_timesteps=horizon.num_train_timesteps,
        one_by_one=device.type == "cpu" if batch_invariant is None else batch_invariant,
    )
    x, noise = _draw(seeds, (pipe.unet.config.in_channels, *size), num_inference_steps if eta > 0 else 0)
    scene = Scene(inputs.concavities(chosen, curve).to(device), size)
    batch = Batch(
        network=network,
        tokens=tokens,
        x=x.to(device),
        noise=None if noise is None else noise.to(device),
        scene=scene,
        horizon=horizon,
        schedule=Schedule(curve, horizon, scene),
        alphas=AlphaTable.from_scheduler(scheduler, device),
        prediction=Prediction.from_config(scheduler.config),
        eta=eta,
    )
    try:
        latents = batch.run(mask, mask.initial(scene, batch.rehearse), callback)
        if output_type == "latent":
            return latents
        _check_finite(latents)
        return decode(pipe, latents, output_type)
    finally:
        pipe.maybe_free_model_hooks()


def _check_finite(latents: Tensor) -> None:
    finite = torch.isfinite(latents).flatten(1).all(1).tolist()
    if not all(finite):
        broken = ", ".join(str(i) for i, whole in enumerate(finite) if not whole)
        raise UserError(
            f"images {broken} came out as no numbers (NaN or infinite): load the pipeline in float32"
        )


def _tokens(pipe: Any, prompt: str, subjects: Sequence[Subject]) -> list[list[int]]:
    """The token positions of each subject, in the prompt as the pipeline will spell it.

    A textual inversion of n vectors is n words there ("<toy> <toy>_1"), in the prompt as in a subject.
    """

    def spelled(text: str) -> str:
        words: str = pipe.maybe_convert_prompt(text, pipe.tokenizer)
        return words

    return locate(
        pipe.tokenizer,
        spelled(prompt),
        [replace(subject, text=spelled(subject.text)) for subject in subjects],
    )


def _encode(
    pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Text embeddings (B, L, D), one text at a time so that none depends on its company."""

    @cache
    def embed(text: str) -> Tensor:
        embedding: Tensor = pipe.encode_prompt(text, device, 1, False)[0]
        return embedding

    cond = torch.cat([embed(text) for text in prompts])
    return cond, None if negatives is None else torch.cat([embed(text) for text in negatives])


def _draw(seeds: Sequence[int], shape: tuple[int, ...], steps: int) -> tuple[Tensor, Tensor | None]:
    """Initial noise (B, C, H, W) and that of each step (N, B, C, H, W), each image from its own generator."""
    draws = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        draws.append(torch.cat([torch.randn((1, *shape), generator=generator) for _ in range(1 + steps)]))
    noise = torch.stack(draws, dim=1)
    return noise[0], noise[1:] if steps else None


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, output_type: str = "pil") -> Any:
    """Latents (B, C, H, W) to images, one at a time so that none depends on its company; a flagged picture is black.

    Args:
        pipe: the ``StableDiffusionPipeline`` whose latents they are.
        output_type: "pil", "pt" or "np", as in `sample`.
    """
    pixels: list[Tensor] = []
    flagged: list[bool] = []
    for latent in latents.to(pipe.vae.dtype):
        decoded = pipe.vae.decode(latent[None] / pipe.vae.config.scaling_factor, return_dict=False)[0]
        decoded, concerns = pipe.run_safety_checker(decoded, decoded.device, latent.dtype)
        pixels.append(decoded)
        flagged += concerns or [False]
    return pipe.image_processor.postprocess(
        torch.cat(pixels), output_type=output_type, do_denormalize=[not flag for flag in flagged]
    )
