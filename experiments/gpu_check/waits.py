"""How often a step waits for the GPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import Row
from experiments.timing.cases import NETWORKS
from experiments.timing.steps import OURS, STOCK
from experiments.timing.waits import count_waits

CHECK = "waits"


def list_parts(setting: Setting) -> Iterator[Part]:
    """A part for each family of networks; the sizes of networks are of no account."""
    for name in NETWORKS:
        yield Part(CHECK, name, partial(count, name, setting), seconds=10, aimed=True)


def count(name: str, setting: Setting) -> Iterator[Row]:
    """Waits of a step of each kind."""
    case = replace(NETWORKS[name]("tiny", setting.device, torch.float32), side=16)
    how = "" if setting.on_gpu else "feigned GPU"
    if "eta" in inspect.signature(type(case.pipe).__call__).parameters:
        noisy = replace(case, call={**case.call, "eta": 1.0})
        waits = count_waits(noisy, OURS, setting.device)
        note = "; ".join(filter(None, [how, waits.places]))
        yield Row(CHECK, name, f"{OURS} with noise, a step", waits.count, "waits", 1.0, note=note)
    for kind in (STOCK, "DM", OURS):
        waits = count_waits(case, kind, setting.device)
        note = "; ".join(filter(None, [how, waits.places, *sorted(set(waits.mixed))]))
        most = None if kind == STOCK else 1.0
        yield Row(CHECK, name, f"{kind}, a step", waits.count, "waits", most, note=note)
        if kind != STOCK and not setting.on_gpu:
            mixed = float(len(waits.mixed))
            yield Row(CHECK, name, f"{kind}, host and GPU mixed", mixed, "calls", 0.0, note=how)
