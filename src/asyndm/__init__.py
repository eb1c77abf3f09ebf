"""Asynchronous denoising: every pixel, or token, on its own noise schedule.

Example::

    pipe = diffusers.DiffusionPipeline.from_pretrained(...)
    prompt, subjects = "a rabbit playing basketball", ["rabbit", "basketball"]
    images = asyndm.sample(pipe, prompt, subjects, seed=1234)

    with asyndm.asynchronous(pipe, prompt, subjects):
        images = pipe(prompt).images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError

if TYPE_CHECKING:
    from asyndm import guidance, solvers

    __version__: str
    from asyndm.curves import Curve, Exponential, Linear, PiecewiseLinear, Quadratic
    from asyndm.masks import (
        DynamicMask,
        ExternalMask,
        GlobalMask,
        LayoutMask,
        Mask,
        NoMask,
        StaticMask,
        ThingsMask,
    )
    from asyndm.models import load
    from asyndm.records import StepRecord
    from asyndm.sampler import BrokenImages, asynchronous, sample
    from asyndm.subjects import Subject

_HOMES = {
    "curves": ("Curve", "Exponential", "Linear", "PiecewiseLinear", "Quadratic"),
    "masks": (
        *("DynamicMask", "ExternalMask", "GlobalMask", "LayoutMask", "Mask", "NoMask"),
        *("StaticMask", "ThingsMask"),
    ),
    "models": ("load",),
    "sampler": ("BrokenImages", "asynchronous", "sample"),
    "records": ("StepRecord",),
    "subjects": ("Subject",),
}

_MODULES = ("guidance", "solvers")
"""Of choices that are many: ``asyndm.guidance.SmoothedEnergy``."""

__all__ = [
    "BrokenImages",
    "Curve",
    "DynamicMask",
    "Exponential",
    "ExternalMask",
    "GlobalMask",
    "LayoutMask",
    "Linear",
    "Mask",
    "NoMask",
    "PiecewiseLinear",
    "Quadratic",
    "StaticMask",
    "StepRecord",
    "Subject",
    "ThingsMask",
    "UserError",
    "__version__",
    "asynchronous",
    "guidance",
    "load",
    "sample",
    "solvers",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("asyndm.checkout").read_version()
    if name in _MODULES:
        return import_module(f"asyndm.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"asyndm.{home}"), name)
    raise AttributeError(f"module 'asyndm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
