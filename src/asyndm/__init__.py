"""Asynchronous denoising: every latent pixel on its own noise schedule.

pipe = diffusers.StableDiffusionPipeline.from_pretrained(...)
images = asyndm.sample(pipe, "a rabbit playing basketball", subjects=["rabbit", "basketball"],
                       curve=asyndm.Quadratic(0.5), seed=1234)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError

if TYPE_CHECKING:
    from asyndm.algorithm import StepRecord
    from asyndm.curves import Curve, Exponential, Horizon, Linear, PiecewiseLinear, Quadratic
    from asyndm.masks import DynamicMask, ExternalMask, GlobalMask, Mask, NoMask, StaticMask
    from asyndm.models import load
    from asyndm.sampler import sample
    from asyndm.subjects import Subject

_HOMES = {
    "algorithm": ("StepRecord",),
    "curves": ("Curve", "Exponential", "Horizon", "Linear", "PiecewiseLinear", "Quadratic"),
    "masks": ("DynamicMask", "ExternalMask", "GlobalMask", "Mask", "NoMask", "StaticMask"),
    "models": ("load",),
    "sampler": ("sample",),
    "subjects": ("Subject",),
}

__all__ = [
    "Curve",
    "DynamicMask",
    "Exponential",
    "ExternalMask",
    "GlobalMask",
    "Horizon",
    "Linear",
    "Mask",
    "NoMask",
    "PiecewiseLinear",
    "Quadratic",
    "StaticMask",
    "StepRecord",
    "Subject",
    "UserError",
    "load",
    "sample",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"asyndm.{home}"), name)
    raise AttributeError(f"module 'asyndm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
