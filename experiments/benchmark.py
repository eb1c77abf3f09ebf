"""The cost of asynchrony: python -m experiments.benchmark [--size small|sd21|both] [--device auto|cpu|cuda]

AsynDM's step (timestep map, hooks, attention maps, mask, per-pixel update) against the stock step (network, guidance,
``DDIMScheduler.step``), interleaved in one run on the same random weights: 64x64 latents, one image, guidance. On a GPU
also whole sampling with ``asyndm.sample`` against ``StableDiffusionPipeline``: time and peak memory, both decoding one
image at a time.

``small``, the default, takes a minute on a CPU. ``sd21`` has the size of Stable Diffusion 2.1: several gigabytes of
memory, and slow without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import asyndm
from asyndm.algorithm import Schedule, StepRecord
from asyndm.curves import Horizon, Quadratic
from asyndm.errors import UserError
from asyndm.guided import GuidedNetwork
from asyndm.masks import DynamicMask, Scene
from asyndm.models import choose_device, choose_dtype
from asyndm.sampler import Batch
from asyndm.steps import AlphaTable, Prediction

LATENT, TEXT_LENGTH, GUIDANCE = 64, 77, 5.0
ATTENDING = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "use_linear_projection": True,
    "sample_size": LATENT,
}
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": (1, 2, 4, 4),
        "cross_attention_dim": 128,
    },
    "sd21": {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
    },
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build_unet(size: str, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """A network of that size with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**ATTENDING, **SIZES[size])
    for tensor in (*unet.parameters(), *unet.buffers()):
        tensor.data = tensor.data.to(dtype)
    return unet.eval()


def twin(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A second network around the same weights, so that one can be hooked and the other stay stock."""
    with torch.device("meta"):
        other = UNet2DConditionModel.from_config(unet.config)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.eval()


def stopwatch(device: torch.device) -> Callable[[], float]:
    """The time once the device has done all it was asked to do."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def stock_step(unet: UNet2DConditionModel, text: Tensor, noise: Tensor) -> Callable[[Tensor], Tensor]:
    """One step of the stock pipeline's loop, as it stands there."""
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(50)
    t = scheduler.timesteps.to(text.device)[10]

    def step(latents: Tensor) -> Tensor:
        output = unet(torch.cat([latents] * 2), t, encoder_hidden_states=text, return_dict=False)[0]
        uncond, cond = output.chunk(2)
        output = uncond + GUIDANCE * (cond - uncond)
        stepped = scheduler.step(output, t, latents, eta=1.0, variance_noise=noise, return_dict=False)
        result: Tensor = stepped[0]
        return result

    return step


@torch.no_grad()
def compare_steps(
    size: str, device: torch.device, dtype: torch.dtype, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each stock step and of each AsynDM step between them; the first of both is dropped."""
    unet = build_unet(size, device, dtype)
    width = SIZES[size]["cross_attention_dim"]
    cond, uncond = torch.randn((2, 1, TEXT_LENGTH, width), device=device, dtype=dtype)
    noise = torch.randn((repeats + 2, 1, 4, LATENT, LATENT), device=device)
    step = stock_step(twin(unet), torch.cat([uncond, cond]), noise[0].to(dtype))
    horizon = Horizon(repeats + 1)
    scene = Scene(torch.full((1, 2), 0.5, dtype=torch.float64, device=device), (LATENT, LATENT))
    scheduler, mask, now = DDIMScheduler(**SCHEDULER), DynamicMask(), stopwatch(device)
    stock, ours, last = [], [], now()

    def between(record: StepRecord) -> None:
        nonlocal last
        start = now()
        ours.append(start - last)
        step(noise[0].to(dtype))
        last = now()
        stock.append(last - start)

    Batch(
        network=partial(GuidedNetwork, unet, cond, uncond, GUIDANCE),
        tokens=[[[2], [5, 6]]],
        x=noise[0],
        noise=noise[1:],
        scene=scene,
        horizon=horizon,
        schedule=Schedule(Quadratic(0.5), horizon, scene),
        alphas=AlphaTable.from_scheduler(scheduler, device),
        prediction=Prediction.from_config(scheduler.config),
        eta=1.0,
    ).run(mask, scene.weights(1.0), between)
    return stock[1:], ours[1:]


def spread(values: list[float]) -> str:
    """Median, quartiles and fastest, in milliseconds."""
    low, middle, high = statistics.quantiles([1000 * v for v in values], n=4)
    return f"{middle:10.2f}  ({low:.2f} to {high:.2f}), fastest {1000 * min(values):.2f}"


def report_steps(size: str, device: torch.device, dtype: torch.dtype, repeats: int) -> None:
    stock, ours = compare_steps(size, device, dtype, repeats)
    ratio = statistics.median(ours) / statistics.median(stock)
    low, _, high = statistics.quantiles([a / b for a, b in zip(ours, stock, strict=True)], n=4)
    print(f"{size}, {device}, {dtype}, {repeats} steps each, interleaved: median (quartiles) in ms")
    print(f"  stock step   {spread(stock)}")
    print(f"  AsynDM step  {spread(ours)}")
    print(
        f"  ratio of medians {ratio:.3f}  (quartiles of the paired ratios {low:.3f} to {high:.3f}), "
        f"of fastest {min(ours) / min(stock):.3f}",
        flush=True,
    )


def build_pipeline(size: str, device: torch.device, dtype: torch.dtype) -> StableDiffusionPipeline:
    """A complete pipeline around that network, with Stable Diffusion's autoencoder and text encoder shapes."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=TEXT_LENGTH
    )
    width = SIZES[size]["cross_attention_dim"]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=23,
        num_attention_heads=width // 64,
        **ends,
    )
    with torch.device(device):
        autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        encoder = CLIPTextModel(text)
    pipe = StableDiffusionPipeline(
        vae=autoencoder.to(dtype).eval(),
        text_encoder=encoder.to(dtype).eval(),
        tokenizer=tokenizer,
        unet=build_unet(size, device, dtype),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def report_sampling(
    size: str, device: torch.device, dtype: torch.dtype, steps: int = 50, images: int = 4
) -> None:
    """Whole sampling on a GPU, three times each, interleaved: the last two count."""
    pipe = build_pipeline(size, device, dtype)
    pipe.vae.enable_slicing()
    prompt, now = "a dog and a cat", stopwatch(device)
    shared: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "eta": 1.0}
    methods: dict[str, Callable[[], Any]] = {
        "stock pipeline": lambda: pipe([prompt] * images, **shared),
        "asyndm.sample": lambda: asyndm.sample(pipe, [prompt] * images, ["dog", "cat"], **shared),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    peaks = dict.fromkeys(methods, 0.0)
    for _ in range(3):
        for name, method in methods.items():
            torch.cuda.reset_peak_memory_stats(device)
            start = now()
            method()
            seconds[name].append(now() - start)
            peaks[name] = torch.cuda.max_memory_allocated(device) / 2**30
    print(f"{size}, {device}, {dtype}: {images} images of {8 * LATENT} pixels, {steps} steps")
    for name in methods:
        print(f"  {name:16} {min(seconds[name][1:]):8.2f} s  peak {peaks[name]:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES, "both"], default="small")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--repeats", type=int, default=20, help="steps of each kind")
    arguments = parser.parse_args()
    if not 2 <= arguments.repeats < 1000:
        parser.error("--repeats must be from 2 to 999")
    try:
        device = choose_device(arguments.device)
        dtype = choose_dtype(arguments.dtype, device)
    except UserError as error:
        parser.error(str(error))
    for size in SIZES if arguments.size == "both" else [arguments.size]:
        report_steps(size, device, dtype, arguments.repeats)
        if device.type == "cuda":
            report_sampling(size, device, dtype)


if __name__ == "__main__":
    main()
