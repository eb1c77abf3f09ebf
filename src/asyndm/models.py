"""Loading a Stable Diffusion pipeline from a diffusers folder or the hub."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from asyndm.errors import UserError, first_line
from asyndm.inputs import check_pipeline, ddim_scheduler

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda")


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    variant: str | None = None,
) -> Any:
    """A ``StableDiffusionPipeline`` with a DDIM scheduler, on its device, in its dtype, without safety checker.

    Only safetensors are read, and no code of the checkpoint is run.

    Args:
        path: a diffusers folder, or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
        dtype: float32, float16, bfloat16, or auto: float16 on a GPU, float32 on the CPU.
        device: cpu, cuda (cuda:1, ...), or auto: the GPU if there is one.
        revision: branch, tag or commit on the hub.
        variant: of the weight files, such as "fp16".

    Raises:
        UserError: unknown dtype or device, GPU absent, half precision on the CPU, no such folder, hub unreachable,
            not a Stable Diffusion checkpoint in safetensors.
    """
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    source = _existing(path)
    try:
        with warnings.catch_warnings():  # "dtype" is not yet known to every diffusers that is supported
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            pipe: Any = StableDiffusionPipeline.from_pretrained(
                source,
                torch_dtype=kind,
                revision=revision,
                variant=variant,
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
    except (
        Exception
    ) as error:  # diffusers, transformers and the hub raise some twenty kinds for a bad checkpoint
        raise UserError(f"model {source!r} cannot be loaded: {first_line(error)}") from error
    check_pipeline(pipe)
    pipe.scheduler = ddim_scheduler(pipe.scheduler)
    return pipe.to(where)


def choose_device(device: str | torch.device) -> torch.device:
    """The device asked for, or with "auto" the GPU if there is one."""
    device = str(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={device}: this machine has {torch.cuda.device_count()} GPU(s); use device=cpu or auto"
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype asked for, or with "auto" float16 on a GPU and float32 on the CPU."""
    dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    if device.type == "cpu" and dtype != "float32":
        raise UserError(f"dtype={dtype} needs a GPU: on the CPU use dtype=float32 or auto")
    return DTYPES[dtype]


def _existing(path: str | Path) -> str:
    """A folder that exists, or something that can be a hub id."""
    text = str(path)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(
                f"model folder {text!r} has no model_index.json: give a diffusers pipeline folder"
            )
        return str(folder)
    if isinstance(path, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
        raise UserError(f"model: there is no folder {text!r}")
    return text
