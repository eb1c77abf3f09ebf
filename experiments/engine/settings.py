"""Which settings there are, and between what they may be: refused before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from asyndm.errors import UserError
from evaluation.messages import did_you_mean
from experiments.engine.schema import Config

RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "eta": (0, 1),
    "mask_threshold": (0, 1000),
    "seed": (0, 2**63 - 1),
    "images_per_prompt": (1, 1000),
    "model.threads": (1, 4096),
    "batch_size": (1, 10_000),
    "pictures": (0, 64),
    "jobs_per_gpu": (1, 64),
    "height": (8, 8192),
    "width": (8, 8192),
    "curve.concavity": (0, 1),
    "mask.threshold": (0, 1000),
    "mask.grow": (0, 1000),
    "mask.rehearsal_steps": (1, 1000),
    "guidance.guidance_scale": (0, 1000),
    "attention_factor": (1, 64),
}
SETTLED = {
    **dict.fromkeys(
        ("num_inference_steps", "height", "width", "eta"),
        "is a setting of its own, without pipeline_arguments",
    ),
    "guidance_scale": "say guidance.guidance_scale",
    "num_images_per_prompt": "say images_per_prompt",
    **dict.fromkeys(
        ("prompt", "generator", "output_type", "return_dict", "latents"),
        "is set by each run itself",
    ),
}
"""Arguments of a pipeline's call that have another place."""
DTYPES = ("auto", "float32", "float16", "bfloat16")


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuses a setting that does not exist or is out of its range.

    Args:
        config: resolved, without Hydra's part.

    Raises:
        UserError: the first that is wrong.
    """
    _check_names(config)
    _check_ranges(config)


def find_device(config: Mapping[str, Any]) -> str:
    """The device asked for, else the model's own."""
    device: str = config["model"]["device"] if config["device"] is None else config["device"]
    return device


def read_pipeline_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline's call that are asked for, of a config or of what a model
    recommends.

    Raises:
        UserError: no mapping, or one that has another place.
    """
    asked = config.get("pipeline_arguments") or {}
    if not isinstance(asked, dict):
        raise UserError(
            f"pipeline_arguments={asked}: give them by name, as in "
            f"pipeline_arguments={{clip_skip: 1}}"
        )
    if settled := sorted(set(asked) & set(SETTLED)):
        raise UserError(f"pipeline_arguments.{settled[0]}: {SETTLED[settled[0]]}")
    return asked


def _check_names(config: Mapping[str, Any]) -> None:
    """Hydra takes any new setting after a +."""
    known = [field.name for field in fields(Config)]
    for key in config:
        if key not in known:
            raise UserError(
                f"{key}: no such setting{did_you_mean(key, known)}; "
                "see --cfg job for those there are"
            )


def _check_ranges(config: Mapping[str, Any]) -> None:
    for key, (low, high) in RANGES.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{key}={value}: must be between {low:g} and {high:g}")
    if config["seed"] + config["images_per_prompt"] > 2**63:
        raise UserError(
            f"seed={config['seed']}: the last image of a prompt would have a seed beyond 2^63 - 1; "
            "choose a smaller one"
        )
    _check_shard(config["shard"])
    if not config["output_dir"]:
        raise UserError("output_dir is empty: give a folder, or leave it out")
    if config["model"]["dtype"] not in DTYPES:
        raise UserError(f"model.dtype={config['model']['dtype']}: choose from {', '.join(DTYPES)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device := find_device(config)):
        setting = "model.device" if config["device"] is None else "device"
        raise UserError(f"{setting}={device}: choose from auto, cpu, cuda, cuda:N")


def _check_shard(shard: str | None) -> None:
    if shard is None:
        return
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"shard={shard}: give K/N with K from 1 to N, as in shard=1/8")
