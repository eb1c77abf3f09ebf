"""What torch.compile gives to stock and asynchronous steps, and whether the latents stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from asyndm.errors import UserError
from asyndm.networks import find_denoiser
from experiments.gpu_check.parts import Missing, Part, Setting
from experiments.gpu_check.rows import NOT_RUN, Row
from experiments.timing.cases import NETWORKS, Case
from experiments.timing.steps import OURS, STOCK, Timing, make_latents, open_kind, time_call

CHECK = "compilation"
STEPS = 4


def _compile_blocks(network: Any, **how: Any) -> None:
    network.compile_repeated_blocks(**how)


def _compile_whole(network: Any, **how: Any) -> None:
    network.compile(**how)


FORMS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "compile_repeated_blocks": (_compile_blocks, {}),
    "whole graph": (_compile_whole, {"fullgraph": True}),
    "CUDA graphs": (_compile_whole, {"mode": "reduce-overhead"}),
}
ON_CPU = {"unet": ("compile_repeated_blocks",), "flux": ("whole graph",)}
"""Forms of which one network each is enough to try the check itself."""


def list_parts(setting: Setting) -> Iterator[Part]:
    """One for each network and way. On a CPU only some, of which graphs are made but no code, which
    would take minutes."""
    for network, gigabytes in (("unet", 8), ("sd35", 12), ("flux", 32)):
        for form in FORMS if setting.on_gpu else ON_CPU.get(network, ()):
            make = partial(try_form, network, form, setting)
            yield Part(CHECK, f"{network} {form}", make, 60, gigabytes)


@torch.no_grad()
def try_form(network: str, form: str, setting: Setting) -> Iterator[Row]:
    """Stock and AsynDM, eager first, on the same weights."""
    if setting.on_gpu and not has_triton():
        raise Missing("a compiler (triton)")
    size, side, batch, dtype = ("tiny", 16, 1, torch.float32)
    if not setting.small:
        size, side, dtype = "full", 64, torch.float16 if network == "unet" else torch.bfloat16
        batch = 1 if network == "flux" else 8
    case = replace(NETWORKS[network](size, setting.device, dtype), side=side, batch=batch)
    compile_it, how = FORMS[form]
    if compile_it is _compile_blocks and not find_denoiser(case.pipe)._repeated_blocks:
        raise Missing("repeated blocks that the network's class names")
    eager = {kind: _time(case, kind, setting) for kind in (STOCK, OURS)}
    torch._dynamo.reset()
    compile_it(find_denoiser(case.pipe), **({**how} if setting.on_gpu else {"backend": "eager"}))
    try:
        for kind in (STOCK, OURS):
            yield from _compare(case, kind, f"{network} {form}", eager, setting)
    finally:
        torch._dynamo.reset()


def _compare(
    case: Case,
    kind: str,
    named: str,
    eager: dict[str, tuple[Timing, Tensor]],
    setting: Setting,
) -> Iterator[Row]:
    try:
        timing, latents = _time(case, kind, setting)
    except UserError as error:
        yield Row(CHECK, named, NOT_RUN, note=f"{kind}: refused: {error}")
        return
    stock, own = eager[STOCK][0], eager[kind]
    wanted = named.startswith("unet") and "graph" in named and not setting.small
    value, least = stock.median / timing.median, 1.4 if wanted else None
    yield Row(CHECK, named, f"stock eager / {kind} compiled, step", value, "", None, least)
    difference = float((latents - own[1]).abs().max() / own[1].std())
    yield Row(CHECK, named, f"{kind}, latents, largest difference to eager", difference, "sd")


def _time(case: Case, kind: str, setting: Setting) -> tuple[Timing, Tensor]:
    """Steps after one call that warms up, and the latents of a call."""
    timing = Timing()
    with open_kind(case, kind):
        latents = make_latents(case, STEPS).float()
        for _ in range(1 if setting.small else 4):
            time_call(case, STEPS, setting.device, timing)
    return timing, latents
