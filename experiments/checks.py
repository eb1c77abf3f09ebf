"""What can be known to fail is refused before the first network evaluation, of any job of a sweep."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from experiments.plan import Plan, build, build_mask, local_folder, metrics

FREE_BYTES = 32 * 2**20
"""What must stay free on the disk beside the pictures."""
SMALLEST = 64
"""Pixels a side, where the model decides and is not on this disk yet."""


def check(plan: Plan) -> None:
    """Everything that can be checked without loading the model.

    Raises:
        UserError: the first thing that is wrong.
    """
    height, width = own_size(plan.config["model"])
    pixels = (plan.config["height"] or height) * (plan.config["width"] or width)
    check_writable(plan.output_dir, len(plan.items) * pixels)
    check_device(plan.device, plan.identity["model"]["dtype"])
    check_model(plan.config["model"])
    build(plan.identity["curve"])
    mask = build_mask(plan)
    if "sha256" in plan.identity["mask"]:
        check_mask_image(plan.config["mask"]["image"])
    for prompt in plan.prompts:
        if mask.needs_subjects and not prompt.subjects:
            raise UserError(
                f"prompt {prompt.text!r} has no subjects, which mask={mask.name} needs; or choose mask=none"
            )
    for metric in metrics(plan).values():
        metric.check(plan.prompts)


def own_size(model: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of the pictures that a model makes unless told otherwise."""
    folder = local_folder(model)
    if folder is None:
        return SMALLEST, SMALLEST
    try:
        size = json.loads((folder / "unet" / "config.json").read_text())["sample_size"]
        levels = json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]
    except (OSError, ValueError, KeyError):
        return SMALLEST, SMALLEST
    height, width = (size, size) if isinstance(size, int) else size
    factor: int = 2 ** (len(levels) - 1)
    return height * factor, width * factor


def check_mask_image(path: str) -> None:
    """Refuses a mask that cannot be read as a picture."""
    from asyndm.masks import read_grey

    read_grey(path)


def check_writable(output_dir: Path, expected_bytes: int) -> None:
    """Refuses a place that cannot take the run's files.

    Raises:
        UserError: it cannot be made or written to, or has too little room.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(output_dir).free
    except OSError as error:
        raise UserError(
            f"output_dir={output_dir}: cannot be written to ({error.strerror}); choose another"
        ) from error
    if free < expected_bytes + FREE_BYTES:
        needed = (expected_bytes + FREE_BYTES) / 2**20
        raise UserError(f"output_dir={output_dir}: {free / 2**20:.0f} MB free, about {needed:.0f} MB needed")


def check_device(device: str, dtype: str) -> None:
    """Refuses a GPU that is not there, and half precision without one."""
    if device == "cpu" and dtype != "float32":
        raise UserError(f"model.dtype={dtype} needs a GPU: on the CPU choose float32 or auto")
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or int(device.partition(":")[2] or 0) >= count:
            raise UserError(
                f"device={device}: this machine has {count} usable GPUs; choose device=cpu or device=auto"
            )


def check_model(model: Mapping[str, Any]) -> None:
    """Refuses a model that is neither on this disk nor to be had from the hub."""
    if local_folder(model) is not None:
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        hf_hub_download(model["path"], "model_index.json", revision=model["revision"])
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise UserError(
            f"model={model['name']}: {model['path']} is not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}: {reason}); give model=folder model.path=DIR"
        ) from error


def check_tokens(plan: Plan, pipe: Any) -> None:
    """Refuses, before the first image, a subject of any prompt that the tokenizer loses or cuts off."""
    from asyndm.subjects import locate

    for prompt in plan.prompts:
        try:
            locate(pipe.tokenizer, prompt.text, prompt.subjects)
        except UserError as error:
            raise UserError(f"prompt {prompt.prompt_id}: {error}") from error
