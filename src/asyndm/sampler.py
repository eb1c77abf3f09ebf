"""Asynchronous sampling: the algorithm on a page, and its use on a stock Stable Diffusion pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from asyndm import inputs
from asyndm.attention import CrossAttentionMaps
from asyndm.conditioning.unet import PerPixelTime
from asyndm.curves import Curve, Horizon, Linear, Quadratic
from asyndm.errors import UserError, check_fraction
from asyndm.masks import DynamicMask, Mask, NoMask, Scene
from asyndm.steps import AlphaTable, Prediction, ddim_step
from asyndm.subjects import Subject, locate

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
DEFAULT_CURVE = Quadratic(0.5)
DEFAULT_MASK = DynamicMask()


class Network(Protocol):
    """A denoising network with a timestep per pixel: (x, whole timesteps (B, H, W)) -> (output, attention maps)."""

    def __call__(self, x: Tensor, index: Tensor, /) -> tuple[Tensor, Tensor | None]: ...


class NextTimesteps(Protocol):
    """Where every pixel goes from t when r updates remain, given the weights: t, r, (B, S, H, W) -> (B, H, W)."""

    def __call__(self, t: Tensor, remaining: int, weights: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class StepRecord:
    """What one step did; all tensors on the sampling device.

    Args:
        step: i = 1 ... N.
        remaining: N - i.
        timesteps: (B, H, W) float64, before the step.
        next_timesteps: (B, H, W) float64, after it.
        weights: (B, S, H, W), the mask that steered it.
        output: (B, C, H, W), the network's output, guided.
        maps: (B, S, h, w) attention maps of this evaluation, if they were read.
        latents: (B, C, H, W) after the step.
        sample: (B, C, H, W) the predicted x₀.
    """

    step: int
    remaining: int
    timesteps: Tensor
    next_timesteps: Tensor
    weights: Tensor
    output: Tensor
    maps: Tensor | None
    latents: Tensor
    sample: Tensor


@dataclass(frozen=True)
class Schedule:
    """t' = w·curve(t) + (1-w)·line(t), per pixel; w and ω are those of the subject that owns the pixel."""

    curve: Curve
    horizon: Horizon
    scene: Scene

    def __call__(self, t: Tensor, remaining: int, weights: Tensor) -> Tensor:
        w, omega = self.scene.owned(weights)
        curved = self.curve.advance(t, remaining, self.horizon, omega)
        return w * curved + (1 - w) * Linear().advance(t, remaining, self.horizon)


@torch.no_grad()
def denoise(
    network: Network,
    x: Tensor,
    weights: Tensor,
    *,
    horizon: Horizon,
    schedule: NextTimesteps,
    mask: Mask,
    scene: Scene,
    alphas: AlphaTable,
    prediction: Prediction,
    eta: float = 0.0,
    noise: Tensor | None = None,
    callback: Callable[[StepRecord], None] | None = None,
) -> Tensor:
    """The algorithm: N evaluations, every pixel at its own timestep t.

    Args:
        network: evaluated at x and the rounded timestep map.
        x: (B, C, H, W) initial noise.
        weights: (B, S, H, W) of the mask before the first evaluation.
        noise: (N, B, C, H, W) standard normal, needed if eta > 0.

    Returns:
        (B, C, H, W), fully denoised.
    """
    N = horizon.num_inference_steps
    t = torch.full((len(x), *x.shape[-2:]), horizon.t_start, dtype=torch.float64, device=x.device)
    t = schedule(t, N, weights)
    for i in range(1, N + 1):
        t_next = schedule(t, N - i, weights)
        a, s = alphas.at(t), alphas.at(t_next) if i < N else alphas.clean
        output, maps = network(x, alphas.index(t))
        z = None if noise is None else noise[i - 1]
        x, x0 = ddim_step(x, output, a, s, eta=eta, noise=z, prediction=prediction)
        if callback is not None:
            callback(StepRecord(i, N - i, t, t_next, weights, output, maps, x, x0))
        t, weights = t_next, mask.follow(weights, maps, scene)
    return x


class GuidedNetwork:
    """A stock UNet with its texts, as a ``Network``: hooked while the context lasts, guided, in one forward.

    output = uncond + g (cond - uncond), in float32; without ``uncond`` the conditional output alone.

    Args:
        unet: a stock ``UNet2DConditionModel``.
        cond: (B, L, D) text embeddings.
        uncond: (B, L, D) for guidance; None: no guidance.
        guidance_scale: g.
        tokens: for each image, for each subject, its token positions; None: attention is not read.
        attention_factor: latent size over map size, see ``CrossAttentionMaps``.
        num_train_timesteps: T.
        one_by_one: evaluate one image after another: the same arithmetic, to the bit, in any company.
    """

    def __init__(
        self,
        unet: Any,
        cond: Tensor,
        uncond: Tensor | None = None,
        guidance_scale: float = 1.0,
        tokens: Sequence[Sequence[Sequence[int]]] | None = None,
        attention_factor: int | None = None,
        num_train_timesteps: int = 1000,
        one_by_one: bool = False,
    ) -> None:
        self._unet = unet
        self._guidance_scale = guidance_scale
        self._guided = uncond is not None
        self._time = PerPixelTime(unet, num_train_timesteps)
        self._ignored_timestep = torch.zeros((), dtype=torch.long, device=cond.device)
        self._groups = [slice(i, i + 1) for i in range(len(cond))] if one_by_one else [slice(0, len(cond))]
        self._texts = [
            cond[group] if uncond is None else torch.cat([uncond[group], cond[group]])
            for group in self._groups
        ]
        self._attentions: list[CrossAttentionMaps | None] = [None] * len(self._groups)
        if tokens is not None:
            longest = max(map(len, tokens))
            padded = [[*subjects, *[()] * (longest - len(subjects))] for subjects in tokens]
            self._attentions = [
                CrossAttentionMaps(unet, padded[group], attention_factor, self._guided)
                for group in self._groups
            ]

    def __enter__(self) -> Self:
        self._time.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._time.__exit__(kind, error, trace)

    def __call__(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = [
            self._evaluate(x[group], index[group], text, attention)
            for group, text, attention in zip(self._groups, self._texts, self._attentions, strict=True)
        ]
        output = torch.cat([part for part, _ in parts])
        maps = [part for _, part in parts if part is not None]
        return output, torch.cat(maps) if maps else None

    def _evaluate(
        self, x: Tensor, index: Tensor, text: Tensor, attention: CrossAttentionMaps | None
    ) -> tuple[Tensor, Tensor | None]:
        self._time.set(index)
        x = x.to(text.dtype).repeat(2 if self._guided else 1, 1, 1, 1)
        with attention or nullcontext():
            output = self._unet(x, self._ignored_timestep, encoder_hidden_states=text, return_dict=False)[
                0
            ].float()
        if self._guided:
            uncond, cond = output.chunk(2)
            output = uncond + self._guidance_scale * (cond - uncond)
        return output, None if attention is None else attention.maps()


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
        UserError: any bad input, before the first network evaluation.
    """
    inputs.check_pipeline(pipe)
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
    size = inputs.latent_size(pipe, height, width)
    scheduler = inputs.ddim_scheduler(pipe.scheduler)
    horizon = Horizon(
        num_inference_steps, scheduler.config.num_train_timesteps, scheduler.config.steps_offset
    )
    device = pipe._execution_device

    cond, uncond = _encode(pipe, prompts, None if guidance_scale == 1 else negatives, device)
    x, noise = _draw(seeds, (pipe.unet.config.in_channels, *size), num_inference_steps if eta > 0 else 0)
    scene = Scene(inputs.concavities(chosen, curve).to(device), size)
    batch = Batch(
        network=partial(
            GuidedNetwork,
            pipe.unet,
            cond,
            uncond,
            guidance_scale,
            attention_factor=attention_factor,
            num_train_timesteps=horizon.num_train_timesteps,
            one_by_one=device.type == "cpu" if batch_invariant is None else batch_invariant,
        ),
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
    latents = batch.run(mask, mask.initial(scene, batch.rehearse), callback)
    images = latents if output_type == "latent" else _decode(pipe, latents, output_type)
    pipe.maybe_free_model_hooks()
    return images


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


def _decode(pipe: Any, latents: Tensor, output_type: str) -> Any:
    """Latents to images, one at a time so that none depends on its company."""
    pixels = []
    for latent in latents.to(pipe.vae.dtype):
        decoded = pipe.vae.decode(latent[None] / pipe.vae.config.scaling_factor, return_dict=False)[0]
        pixels.append(pipe.run_safety_checker(decoded, decoded.device, latent.dtype)[0])
    return pipe.image_processor.postprocess(torch.cat(pixels), output_type=output_type)
