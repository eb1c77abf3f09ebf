"""The cost of asynchrony: python -m experiments.studies.benchmark [--network unet,sd35,flux]
[--size small|full]

AsynDM's step (64 timesteps in the picture, attention read, mask, per-pixel update) against the
stock pipeline's, whose calls take turns in one run on the same random weights: one image of 64x64
latents, with guidance where the pipeline has two rows for it. On a GPU also the peak of memory.

``small``, the default, takes four minutes on a CPU. ``full`` has the sizes of Stable Diffusion 2.1,
Stable Diffusion 3.5 medium and FLUX.1: for a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from asyndm.attention import Reading
from asyndm.curves import Quadratic
from asyndm.errors import UserError
from asyndm.masks import DynamicMask, Scene
from asyndm.models import choose_device, choose_dtype
from asyndm.networks import denoiser, find_family
from asyndm.scheduler import AsynchronousScheduler, Method
from asyndm.session import Session

LATENT, LEVELS = 64, 64
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
ATTENDING: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "use_linear_projection": True,
    "sample_size": LATENT,
}
UNETS: dict[str, dict[str, Any]] = {
    "small": {
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": (1, 2, 4, 4),
        "cross_attention_dim": 128,
    },
    "full": {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
    },
}
SD35: dict[str, dict[str, Any]] = {
    "small": {
        "num_layers": 6,
        "num_attention_heads": 8,
        "joint_attention_dim": 256,
        "dual_attention_layers": (0, 1),
    },
    "full": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "dual_attention_layers": tuple(range(13)),
    },
}
FLUX: dict[str, dict[str, Any]] = {
    "small": {
        "num_layers": 3,
        "num_single_layers": 6,
        "num_attention_heads": 4,
        "joint_attention_dim": 256,
    },
    "full": {
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
    },
}


@dataclass(frozen=True)
class Subject:
    """A pipeline to be timed, and its call's arguments."""

    pipe: Any
    call: dict[str, Any] = field(default_factory=dict)


def build_unet(size: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """Stable Diffusion 2.1, or a small one of the same shape."""
    network = _random(UNet2DConditionModel, {**ATTENDING, **UNETS[size]}, device, dtype)
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(
        vae=_autoencoder(4),
        unet=network,
        scheduler=DDIMScheduler(**SCHEDULER),
        requires_safety_checker=False,
        **nothing,
    )
    width = UNETS[size]["cross_attention_dim"]
    cond, uncond = torch.randn((2, 1, 77, width), device=device, dtype=dtype)
    return Subject(
        pipe, {"prompt_embeds": cond, "negative_prompt_embeds": uncond, "guidance_scale": 5.0}
    )


def build_sd35(size: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """Stable Diffusion 3.5 medium, or a small one."""
    heads = SD35[size]["num_attention_heads"]
    settings = {
        "sample_size": LATENT,
        "caption_projection_dim": 64 * heads,
        "pooled_projection_dim": 2048,
        "in_channels": 16,
        "out_channels": 16,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
    }
    network = _random(SD3Transformer2DModel, {**settings, **SD35[size]}, device, dtype)
    names = (
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(
        vae=_autoencoder(16), transformer=network, scheduler=scheduler, **dict.fromkeys(names)
    )
    cond, uncond = torch.randn(
        (2, 1, 77 + 256, SD35[size]["joint_attention_dim"]), device=device, dtype=dtype
    )
    pooled = torch.randn((1, 2048), device=device, dtype=dtype)
    texts = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
    return Subject(
        pipe,
        {
            **texts,
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": pooled,
            "guidance_scale": 4.5,
        },
    )


def build_flux(size: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """FLUX.1 dev, or a small one."""
    network = _random(
        FluxTransformer2DModel, {"guidance_embeds": True, **FLUX[size]}, device, dtype
    )
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = FluxPipeline(
        vae=_autoencoder(16), transformer=network, scheduler=scheduler, **dict.fromkeys(names)
    )
    cond = torch.randn((1, 512, FLUX[size]["joint_attention_dim"]), device=device, dtype=dtype)
    pooled = torch.randn((1, 768), device=device, dtype=dtype)
    return Subject(pipe, {"prompt_embeds": cond, "pooled_prompt_embeds": pooled})


NETWORKS: dict[str, Callable[[str, torch.device, torch.dtype], Subject]] = {
    "unet": build_unet,
    "sd35": build_sd35,
    "flux": build_flux,
}


class Graded(DynamicMask):
    """Reads attention as AsynDM does, and then takes a picture with 64 greys: as many timesteps as
    a mask that settles slowly leaves behind."""

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        height, width = scene.size
        place = torch.arange(height * width, device=scene.concavity.device).view(height, width)
        return scene.weights(1.0) * (place * LEVELS // (height * width) / LEVELS)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        super().follow(weights, maps, scene)
        return weights


def asynchronous(pipe: Any) -> Session:
    """The pipeline with two subjects, as AsynDM."""
    concavity = torch.full((1, 2), 0.5, dtype=torch.float64)
    family = find_family(pipe)
    reader = family.attention(denoiser(pipe), [[[2], [5, 6]]], Reading())
    return Session(
        pipe,
        family,
        AsynchronousScheduler(pipe.scheduler, Method(Quadratic(), Graded(), concavity)),
        reader,
    )


@dataclass
class Timing:
    """Seconds of each step, and the largest memory of any call in GiB."""

    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0


def timed_call(subject: Subject, steps: int, device: torch.device, timing: Timing) -> None:
    """One call of the pipeline; the first step, which warms up, is not counted."""
    marks: list[float] = []

    def mark(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
        return values

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    subject.pipe(
        **subject.call,
        height=8 * LATENT,
        width=8 * LATENT,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=mark,
        output_type="latent",
    )
    timing.seconds += [after - before for before, after in zip(marks, marks[1:], strict=False)]
    if device.type == "cuda":
        timing.memory = max(timing.memory, torch.cuda.max_memory_allocated(device) / 2**30)


@torch.no_grad()
def compare(
    subject: Subject, device: torch.device, calls: int, steps: int
) -> tuple[Timing, Timing]:
    """Stock and asynchronous calls in turn; the first of both is not counted."""
    stock, ours = Timing(), Timing()
    for call in range(calls + 1):
        for timing in (stock, ours):
            kept = timing if call else Timing()
            if timing is stock:
                timed_call(subject, steps, device, kept)
            else:
                with asynchronous(subject.pipe).open():
                    timed_call(subject, steps, device, kept)
    return stock, ours


def report(
    name: str, size: str, device: torch.device, dtype: torch.dtype, calls: int, steps: int
) -> None:
    """Times one network and prints the line."""
    subject = NETWORKS[name](size, device, dtype)
    subject.pipe.set_progress_bar_config(disable=True)
    stock, ours = compare(subject, device, calls, steps)
    middle = [1000 * statistics.median(timing.seconds) for timing in (stock, ours)]
    low, _, high = statistics.quantiles(
        [a / b for a, b in zip(ours.seconds, stock.seconds, strict=True)], n=4
    )
    line = (
        f"{name:5} {size:5} {device.type} {str(dtype).removeprefix('torch.')}: stock "
        f"{middle[0]:.1f} ms, AsynDM "
        f"{middle[1]:.1f} ms a step, ratio {middle[1] / middle[0]:.3f} (quartiles of the pairs "
        f"{low:.3f} to {high:.3f}, "
        f"{len(ours.seconds)} steps)"
    )
    if device.type == "cuda":
        line += f", memory {stock.memory:.2f} and {ours.memory:.2f} GiB"
    print(line, flush=True)


def _random(kind: Any, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        network = kind(**settings)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.to(dtype)
    return network.eval()


def _autoencoder(channels: int) -> AutoencoderKL:
    """Of the usual factor, 8; it decodes nothing here."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=channels, **blocks
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}"
    )
    parser.add_argument("--size", choices=[*UNETS], default="small")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--calls", type=int, default=5, help="calls of each kind")
    parser.add_argument("--steps", type=int, default=6, help="steps of a call")
    chosen = parser.parse_args()
    names = chosen.network.split(",")
    if unknown := sorted(set(names) - set(NETWORKS)):
        parser.error(f"--network {unknown[0]}: choose from {', '.join(NETWORKS)}")
    if not 1 <= chosen.calls <= 1000 or not 3 <= chosen.steps <= 1000:
        parser.error("--calls must be from 1 to 1000 and --steps from 3 to 1000")
    try:
        device = choose_device(chosen.device)
        dtype = choose_dtype(chosen.dtype, device)
    except UserError as error:
        parser.error(str(error))
    for name in names:
        report(name, chosen.size, device, dtype, chosen.calls, chosen.steps)


if __name__ == "__main__":
    main()
