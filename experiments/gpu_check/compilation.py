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


def list_parts(setting: Setting) -> Iterator[Part]:
    """One for each way. On a CPU one, whose graphs are made but no code of them: that would take
    minutes."""
    for form in FORMS if setting.on_gpu else list(FORMS)[:1]:
        yield Part(CHECK, f"unet {form}", partial(try_form, form, setting), 60, 8)


@torch.no_grad()
def try_form(form: str, setting: Setting) -> Iterator[Row]:
    """Stock and AsynDM, eager first, on the same weights."""
    if setting.on_gpu and not has_triton():
        raise Missing("a compiler (triton)")
    size, side, batch, dtype = ("tiny", 16, 1, torch.float32)
    if not setting.small:
        size, side, batch, dtype = ("full", 64, 8, torch.float16)
    case = replace(NETWORKS["unet"](size, setting.device, dtype), side=side, batch=batch)
    eager = {kind: _time(case, kind, setting) for kind in (STOCK, OURS)}
    compile_it, how = FORMS[form]
    torch._dynamo.reset()
    compile_it(case.pipe.unet, **({**how} if setting.on_gpu else {"backend": "eager"}))
    try:
        for kind in (STOCK, OURS):
            yield from _compare(case, kind, f"unet {form}", eager, setting)
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
    least = 1.4 if kind == STOCK and not setting.small and "graph" in named else None
    value = stock.median / timing.median
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
