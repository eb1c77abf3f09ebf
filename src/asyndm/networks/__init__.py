"""Families of networks, one small file each: adding one is a class here and nothing elsewhere."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from asyndm.errors import UserError
from asyndm.networks.base import Family
from asyndm.protocols import Network, Pipeline

__all__ = [
    "Family",
    "find_denoiser",
    "find_family",
    "find_helpers",
    "list_called",
    "list_families",
    "list_pipelines",
    "unwrap",
]

BASE = "base"


@cache
def list_families() -> tuple[Family, ...]:
    """All families served, by the name of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != BASE)
    for name in names:
        importlib.import_module(f"{__name__}.{name}")
    return tuple(
        kind()
        for name in names
        for kind in _find_concrete(Family)
        if kind.__module__ == f"{__name__}.{name}"
    )


def list_pipelines() -> tuple[str, ...]:
    """The classes of pipeline that are served."""
    return tuple(name for family in list_families() for name in family.pipelines)


def find_denoiser(pipe: Pipeline) -> Network:
    """The network of a pipeline that denoises; None if it has none."""
    return unwrap(list_called(pipe)[0])


def find_helpers(pipe: Pipeline) -> list[Network]:
    """The networks of a pipeline beside its denoiser that see time: its ControlNets."""
    return list(map(unwrap, list_called(pipe)[1:]))


def list_called(pipe: Pipeline) -> list[Network]:
    """The denoiser of a pipeline, or None, and the networks beside it that see time, as it calls
    them: a compiled one may be in a wrapper."""
    network, helper = getattr(pipe, "transformer", None), getattr(pipe, "controlnet", None)
    network = getattr(pipe, "unet", None) if network is None else network
    return [network, *([] if helper is None else getattr(helper, "nets", [helper]))]


def unwrap(network: Network) -> Network:
    """The network that ``torch.compile(network)`` has wrapped, or itself."""
    return getattr(network, "_orig_mod", network)


def find_family(pipe: Pipeline) -> Family:
    """The family that serves a pipeline, by the class names of its network and of itself.

    Raises:
        UserError: none does, or not with this ControlNet.
    """
    network = find_denoiser(pipe)
    classes, pipelines = (
        [kind.__name__ for kind in type(each).__mro__] for each in (network, pipe)
    )
    for family in list_families():
        if set(classes) & set(family.networks):
            if set(pipelines) & set(family.pipelines):
                _check_helpers(family, pipe)
                return family
            break
    what = "" if network is None else f" (with {type(network).__name__})"
    raise UserError(
        f"pipe is a {type(pipe).__name__}{what}, which asyndm does not serve: see docs/models.md "
        "for those it does"
    )


def _check_helpers(family: Family, pipe: Pipeline) -> None:
    for helper in find_helpers(pipe):
        if not {kind.__name__ for kind in type(helper).__mro__} & set(family.helpers):
            raise UserError(
                f"pipe has a {type(helper).__name__}, "
                "which cannot be told a timestep per pixel here"
            )


def _find_concrete(kind: type) -> list[type[Family]]:
    children: list[type] = kind.__subclasses__()
    below = [each for child in children for each in _find_concrete(child)]
    return below if getattr(kind, "__abstractmethods__", None) else [kind, *below]
