"""The tiny pipelines, built once, and what is asked of them: stock and through ``asyndm``."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

import asyndm
from asyndm.attention import AttentionMaps
from asyndm.method import Method
from asyndm.networks import find_denoiser, find_family
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from tests.pipelines.registry import PIPELINES

PROMPTS = ["a red dog", "a dog and a cat"]
SUBJECTS = [["dog"], ["dog", "cat"]]
SEEDS = [3, 8]
PICTURES = ("image", "mask_image", "control_image")
RUNGS = 20
PLAIN = {
    "sd": 0.0,
    "sdxl": 0.0,
    "sd3": 0.0,
    "sd35": 0.0,
    "sd3_clips": 0.0,
    "flux": 0.0,
    "flux_schnell": 0.0,
    "sana": 0.0,
    "qwen": 0.0,
    "pixart": 1e-6,
    "pixart_alpha": 1e-6,
    "flux2": 0.0,
    "flux2_klein": 0.0,
    "chroma": 0.0,
    "auraflow": 0.0,
    "cogview4": 0.0,
    "lumina2": 0.0,
    "zimage": 0.0,
    "hidream": 0.0,
    "hunyuandit": 0.0,
}
"""Pipelines from text alone -> how far DM may be from the stock one, over its largest latent:
PixArt's DDIM is written with other roots."""
VARIANTS = {
    name: 0.0
    for kind, variants in {
        "sd": ("img2img", "inpaint", "inpaint_nine", "controlnet", "pag"),
        "sdxl": ("img2img", "inpaint", "inpaint_nine", "controlnet", "pag", "refiner"),
        "sd3": ("img2img", "controlnet"),
        "flux": ("img2img", "inpaint", "fill", "controlnet"),
        "qwen": ("img2img",),
    }.items()
    for name in (f"{kind}_{variant}" for variant in variants)
}
"""The same of those that take more than a text."""


@cache
def build(name: str) -> Any:
    """Shared: ``asyndm`` promises to leave it untouched. Who changes a pipeline builds one."""
    return PIPELINES[name].build()


def make_generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make_call(name: str, pipe: Any, prompts: list[str], **changes: Any) -> dict[str, Any]:
    """Arguments of the pipeline's call beside prompt, generator and η; texts and pictures listed
    for each prompt."""
    tiny = PIPELINES[name]
    size = {"height": tiny.size[0], "width": tiny.size[1]} if tiny.sized else {}
    call = {"num_inference_steps": 5, "output_type": "latent", **size, **tiny.arguments, **changes}
    for key in ("negative_prompt", *PICTURES):
        if key in call and not isinstance(call[key], (list, Tensor)):
            call[key] = [call[key]] * len(prompts)
    return call


def has_argument(pipe: Any, argument: str) -> bool:
    return argument in inspect.signature(type(pipe).__call__).parameters


def sample_stock(
    name: str,
    pipe: Any = None,
    prompts: list[str] = PROMPTS,
    seeds: list[int] = SEEDS,
    eta: float = 0.0,
    **changes: Any,
) -> Any:
    """What the pipeline makes of itself."""
    pipe = build(name) if pipe is None else pipe
    call = make_call(name, pipe, prompts, **changes)
    more = {"eta": eta} if has_argument(pipe, "eta") else {}
    torch.manual_seed(seeds[0])  # some pipelines draw from it, whatever their generator
    return pipe(prompt=list(prompts), generator=make_generators(seeds), **more, **call).images


def sample_ours(
    name: str,
    pipe: Any = None,
    prompts: list[str] = PROMPTS,
    subjects: Any = SUBJECTS,
    seeds: list[int] = SEEDS,
    eta: float | None = 0.0,
    batch_invariant: bool = False,
    **changes: Any,
) -> Any:
    """What it makes asynchronously."""
    pipe = build(name) if pipe is None else pipe
    own = {key: changes.pop(key) for key in SETTINGS if key in changes}
    call = make_call(name, pipe, prompts, **changes)
    return asyndm.sample(
        pipe,
        list(prompts),
        subjects,
        seed=seeds,
        eta=eta,
        batch_invariant=batch_invariant,
        **own,
        **call,
    )


SETTINGS = (
    "guidance",
    "curve",
    "mask",
    "callback",
    "attention_layers",
    "attention_keys",
    "attention_text",
    "text_level",
)


def sample_dm(name: str, pipe: Any = None, **changes: Any) -> Any:
    """All pixels in step: what the stock pipeline makes."""
    return sample_ours(name, pipe, subjects=None, mask=asyndm.NoMask(), **changes)


def measure_distance(a: Tensor, b: Tensor) -> float:
    """Over the largest."""
    return float((a - b).abs().max() / b.abs().max())


def record_evaluations(name: str, pipe: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """The arguments of each evaluation of the network in a stock call, by name."""
    pipe = build(name) if pipe is None else pipe
    network, seen = find_denoiser(pipe), list[dict[str, Any]]()

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments))

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        sample_stock(name, pipe, **changes)
    finally:
        handle.remove()
    return seen


def compute_output(
    pipe: Any, arguments: dict[str, Any], rungs: Tensor, reader: AttentionMaps | None = None
) -> Tensor:
    """The network's output where its B samples' tokens stand on these of `RUNGS` rungs (B, h, w),
    text on the highest."""
    method = Method(
        asyndm.Linear(), asyndm.NoMask(), torch.zeros(len(rungs), 1, dtype=torch.float64)
    )
    scheduler = AsynchronousScheduler(pipe.scheduler, method, images=range(len(rungs)))
    network = find_denoiser(pipe)
    with (
        Session(pipe, find_family(pipe), scheduler, reader, text_level="slowest").open(),
        torch.no_grad(),
    ):
        dynamic = pipe.scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(RUNGS, **({"mu": 0.5} if dynamic else {}))
        scheduler.begin((rungs.shape[1], rungs.shape[2]), None)
        scheduler.rungs = rungs.double()
        output: Tensor | list[Tensor] = network(**{**arguments, "return_dict": False})[0]
    return output if isinstance(output, Tensor) else torch.stack(output)[:, :, 0]


def measure_grid(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w): the size of each token's part of an output, packed (B, h w, C) or a picture (B, C,
    H, W)."""
    if values.ndim == 3:
        sizes: Tensor = values.norm(dim=-1)
        return sizes.view(-1, *grid)
    cells = values.square().sum(1, keepdim=True)
    pooled: Tensor = torch.nn.functional.avg_pool2d(cells, values.shape[-1] // grid[1])
    return pooled[:, 0].sqrt()


def find_displacement(name: str) -> int:
    """How far from a token whose level is another the output changes most, in tokens along either
    side: the largest of five such tokens."""
    pipe = copy.copy(build(name))
    if hasattr(pipe, "unet"):
        # The convolutions of the shared one are loud enough to carry a change anywhere. As it is,
        # the first pixel of a coarse cell, which is that of all the cell, moves the whole cell.
        torch.manual_seed(0)
        pipe.register_modules(unet=type(pipe.unet).from_config(pipe.unet.config).eval())
    family, arguments = find_family(pipe), record_evaluations(name, pipe, num_inference_steps=2)[0]
    h, w = family.grid(find_denoiser(pipe), arguments)
    base = torch.full((family.batch(arguments), h, w), 16.0)
    expected = compute_output(pipe, arguments, base)
    found = []
    for row, column in ((0, 0), (h - 1, w - 1), (0, w - 1), (h // 2, 3), (3, w // 2)):
        moved = base.clone()
        moved[:, row, column] = 8
        change = measure_grid(compute_output(pipe, arguments, moved) - expected, (h, w)).norm(dim=0)
        peak_row, peak_column = divmod(int(change.argmax()), w)
        found.append(max(abs(peak_row - row), abs(peak_column - column)))
    return max(found)


def is_local(name: str) -> bool:
    """Whether the output changes most at the very token, of a UNet within two latent pixels."""
    return find_displacement(name) <= (2 if find_family(build(name)).picture else 0)
