"""Where the time of a step of AsynDM goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.gpu_check.parts import Missing, Part, Setting
from experiments.gpu_check.rows import Row
from experiments.timing.cases import NETWORKS
from experiments.timing.steps import OURS, make_latents, open_kind

CHECK = "profile"
MOST = 8
STEPS = 2


def list_parts(setting: Setting) -> Iterator[Part]:
    """One."""
    yield Part(CHECK, "unet AsynDM", partial(list_top, setting), 15, 8)


def list_top(setting: Setting) -> Iterator[Row]:
    """The kernels, or on a CPU the functions, that take longest, and their share of all."""
    size, side, batch, dtype = ("tiny", 16, 1, torch.float32)
    if not setting.small:
        size, side, batch, dtype = ("full", 64, 8, torch.float16)
    case = replace(NETWORKS["unet"](size, setting.device, dtype), side=side, batch=batch)
    # Of a GPU kernels alone: functions of the CPU would be told the times of theirs once more.
    own = ProfilerActivity.CUDA if setting.on_gpu else ProfilerActivity.CPU
    attribute = "self_device_time_total" if setting.on_gpu else "self_cpu_time_total"
    with open_kind(case, OURS):
        make_latents(case, STEPS)
    with profile(activities=[own]) as watched:
        with open_kind(case, OURS):
            make_latents(case, STEPS)
    events = sorted(watched.key_averages(), key=lambda event: -getattr(event, attribute))
    total = sum(getattr(event, attribute) for event in events)
    if not total:
        raise Missing("times of kernels (CUPTI)")
    for event in events[:MOST]:
        share = 100 * getattr(event, attribute) / total
        note = f"{event.count / STEPS:g} calls a step"
        yield Row(CHECK, "unet AsynDM", event.key[:60], share, "%", note=note)
