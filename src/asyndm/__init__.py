"""Asynchronous denoising: every pixel, or token, on its own noise schedule.

pipe = diffusers.DiffusionPipeline.from_pretrained(...) images = asyndm.sample(pipe, "a rabbit
playing basketball", subjects=["rabbit", "basketball"], seed=1234)

with asyndm.asynchronous(pipe, "a rabbit playing basketball", subjects=["rabbit", "basketball"]):
    images = pipe("a rabbit playing basketball").images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError

if TYPE_CHECKING:
    __version__: str
    from asyndm.curves import Curve, Exponential, Linear, PiecewiseLinear, Quadratic
    from asyndm.masks import DynamicMask, ExternalMask, GlobalMask, Mask, NoMask, StaticMask
    from asyndm.models import load
    from asyndm.sampler import BrokenImages, asynchronous, sample
    from asyndm.scheduler import StepRecord
    from asyndm.subjects import Subject

_HOMES = {
    "curves": ("Curve", "Exponential", "Linear", "PiecewiseLinear", "Quadratic"),
    "masks": ("DynamicMask", "ExternalMask", "GlobalMask", "Mask", "NoMask", "StaticMask"),
    "models": ("load",),
    "sampler": ("BrokenImages", "asynchronous", "sample"),
    "scheduler": ("StepRecord",),
    "subjects": ("Subject",),
}

__all__ = [
    "BrokenImages",
    "Curve",
    "DynamicMask",
    "Exponential",
    "ExternalMask",
    "GlobalMask",
    "Linear",
    "Mask",
    "NoMask",
    "PiecewiseLinear",
    "Quadratic",
    "StaticMask",
    "StepRecord",
    "Subject",
    "UserError",
    "__version__",
    "asynchronous",
    "load",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("asyndm.checkout").version()
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"asyndm.{home}"), name)
    raise AttributeError(f"module 'asyndm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
