"""The tiny pipelines, built once, and what is asked of them: stock and through ``asyndm``."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

import asyndm
from asyndm.attention import AttentionMaps
from asyndm.networks import denoiser, find_family
from asyndm.scheduler import AsynchronousScheduler, Method
from asyndm.session import Session
from tests.pipelines.registry import PIPELINES

PROMPTS = ["a red dog", "a dog and a cat"]
SUBJECTS = [["dog"], ["dog", "cat"]]
SEEDS = [3, 8]
PICTURES = ("image", "mask_image", "control_image")
RUNGS = 20


@cache
def built(name: str) -> Any:
    """Shared: ``asyndm`` promises to leave it untouched. Who changes a pipeline builds one."""
    return PIPELINES[name].build()


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def call_of(name: str, pipe: Any, prompts: list[str], **changes: Any) -> dict[str, Any]:
    """Arguments of the pipeline's call beside prompt, generator and η; texts and pictures listed
    for each prompt."""
    tiny = PIPELINES[name]
    size = {"height": tiny.size[0], "width": tiny.size[1]} if tiny.sized else {}
    call = {"num_inference_steps": 5, "output_type": "latent", **size, **tiny.arguments, **changes}
    for key in ("negative_prompt", *PICTURES):
        if key in call and not isinstance(call[key], (list, Tensor)):
            call[key] = [call[key]] * len(prompts)
    return call


def takes(pipe: Any, argument: str) -> bool:
    return argument in inspect.signature(type(pipe).__call__).parameters


def stock(
    name: str,
    pipe: Any = None,
    prompts: list[str] = PROMPTS,
    seeds: list[int] = SEEDS,
    eta: float = 0.0,
    **changes: Any,
) -> Any:
    """What the pipeline makes of itself."""
    pipe = built(name) if pipe is None else pipe
    call = call_of(name, pipe, prompts, **changes)
    more = {"eta": eta} if takes(pipe, "eta") else {}
    torch.manual_seed(seeds[0])  # some pipelines draw from it, whatever their generator
    return pipe(prompt=list(prompts), generator=generators(seeds), **more, **call).images


def ours(
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
    pipe = built(name) if pipe is None else pipe
    own = {key: changes.pop(key) for key in SETTINGS if key in changes}
    call = call_of(name, pipe, prompts, **changes)
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
    "curve",
    "mask",
    "callback",
    "attention_layers",
    "attention_keys",
    "attention_text",
    "text_level",
)


def dm(name: str, pipe: Any = None, **changes: Any) -> Any:
    """All pixels in step: what the stock pipeline makes."""
    return ours(name, pipe, subjects=None, mask=asyndm.NoMask(), **changes)


def distance(a: Tensor, b: Tensor) -> float:
    """Over the largest."""
    return float((a - b).abs().max() / b.abs().max())


def evaluations(name: str, pipe: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """The arguments of each evaluation of the network in a stock call, by name."""
    pipe = built(name) if pipe is None else pipe
    network, seen = denoiser(pipe), list[dict[str, Any]]()

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments))

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        stock(name, pipe, **changes)
    finally:
        handle.remove()
    return seen


def output_of(
    pipe: Any, arguments: dict[str, Any], rungs: Tensor, reader: AttentionMaps | None = None
) -> Tensor:
    """The network's output where its B samples' tokens stand on these of `RUNGS` rungs (B, h, w),
    text on the highest."""
    method = Method(
        asyndm.Linear(), asyndm.NoMask(), torch.zeros(len(rungs), 1, dtype=torch.float64)
    )
    scheduler = AsynchronousScheduler(pipe.scheduler, method, images=range(len(rungs)))
    network = denoiser(pipe)
    with (
        Session(pipe, find_family(pipe), scheduler, reader, text_level="slowest").open(),
        torch.no_grad(),
    ):
        dynamic = pipe.scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(RUNGS, **({"mu": 0.5} if dynamic else {}))
        scheduler.begin((rungs.shape[1], rungs.shape[2]), None)
        scheduler.rungs = rungs.double()
        (output, *_) = network(**{**arguments, "return_dict": False})
    return output if isinstance(output, Tensor) else torch.stack(list(output))[:, :, 0]


def on_grid(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w): the size of each token's part of an output, packed (B, h w, C) or a picture (B, C,
    H, W)."""
    if values.ndim == 3:
        return values.norm(dim=-1).view(-1, *grid)
    cells = values.square().sum(1, keepdim=True)
    pooled: Tensor = torch.nn.functional.avg_pool2d(cells, values.shape[-1] // grid[1])
    return pooled[:, 0].sqrt()
