"""With what a program runs: versions of packages, the card and its driver."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def find_version(package: str) -> str | None:
    """The version that is installed; None where none is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def name_device(device: torch.device) -> str:
    """The card, or the processor."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return name or platform.machine()


def describe_machine(device: torch.device) -> dict[str, str]:
    """Card or processor, what drives it, and how much of it there is."""
    import torch

    facts = {"device": name_device(device), "cores": str(os.cpu_count())}
    facts["threads"] = str(torch.get_num_threads())
    if device.type == "cuda":
        facts["memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
        facts["driver"] = _read_driver()
        facts["CUDA"] = str(torch.version.cuda)
        facts["cuDNN"] = str(torch.backends.cudnn.version())
    return facts


def _read_driver() -> str:
    """The driver's version, of the tool that comes with it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.partition("\n")[0].strip()
