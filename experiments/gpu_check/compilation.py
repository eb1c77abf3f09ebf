"""What torch.compile gives to stock and asynchronous steps, and whether the latents stay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
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


WHOLE = ("whole graph", "CUDA graphs")
FORMS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "compile_repeated_blocks": (_compile_blocks, {}),
    "whole graph": (_compile_whole, {"fullgraph": True}),
    "CUDA graphs": (_compile_whole, {"mode": "reduce-overhead"}),
}
ON_GPU = {"unet": tuple(FORMS), "sd35": WHOLE, "flux": tuple(FORMS)}
"""The class of SD3.5 names no repeated blocks."""
ON_CPU = {"unet": ("compile_repeated_blocks",), "flux": ("whole graph",)}
"""Forms of which one network each is enough to try the check itself."""


def list_parts(setting: Setting) -> Iterator[Part]:
    """One for each network and way. On a CPU only some, of which graphs are made but no code, which
    would take minutes."""
    for network, gigabytes in (("unet", 8), ("sd35", 12), ("flux", 32)):
        for form in ON_GPU[network] if setting.on_gpu else ON_CPU.get(network, ()):
            make, aimed = partial(try_form, network, form, setting), _is_aimed(network, form)
            yield Part(CHECK, f"{network} {form}", make, 60, gigabytes, aimed=aimed)


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
    eager = {kind: _time(case, kind, setting) for kind in (STOCK, OURS)}
    torch._dynamo.reset()
    compile_it(find_denoiser(case.pipe), **({**how} if setting.on_gpu else {"backend": "eager"}))
    try:
        least = 1.4 if _is_aimed(network, form) and not setting.small else None
        stock = yield from _compare(case, STOCK, f"{network} {form}", eager, setting, least)
        # A graph that was silently made for other timesteps is off by much more than rounding.
        most = max(0.01, 3 * stock)
        yield from _compare(case, OURS, f"{network} {form}", eager, setting, least, most)
    finally:
        torch._dynamo.reset()


def _compare(
    case: Case,
    kind: str,
    named: str,
    eager: dict[str, tuple[Timing, Tensor]],
    setting: Setting,
    least: float | None,
    most: float | None = None,
) -> Generator[Row, None, float]:
    """Speed and latents; returns how far these are from those of the eager network, in standard
    deviations."""
    try:
        timing, latents = _time(case, kind, setting)
    except UserError as error:
        yield Row(CHECK, named, NOT_RUN, note=f"{kind}: refused: {error}")
        return 0.0
    stock, own = eager[STOCK][0], eager[kind][1]
    speed = stock.median / timing.median
    yield Row(CHECK, named, f"stock eager / {kind} compiled, step", speed, "", None, least)
    difference = float((latents - own).abs().max() / own.std())
    measure = f"{kind}, latents, largest difference to eager"
    yield Row(CHECK, named, measure, difference, "sd", most)
    return difference


def _is_aimed(network: str, form: str) -> bool:
    return network == "unet" and form in WHOLE


def _time(case: Case, kind: str, setting: Setting) -> tuple[Timing, Tensor]:
    """Steps after one call that warms up, and the latents of a call."""
    timing = Timing()
    with open_kind(case, kind):
        latents = make_latents(case, STEPS).float()
        for _ in range(1 if setting.small else 4):
            time_call(case, STEPS, setting.device, timing)
    return timing, latents
