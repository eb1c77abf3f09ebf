"""Networks compiled by torch.compile: which can be told a timestep per pixel, which are refused,
and when they run as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._dynamo import OptimizedModule
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.nn import Module

from asyndm.errors import UserError
from asyndm.networks import Family

OLDEST = (2, 14)
"""The version of torch from which on dynamo is known to follow `CompiledRows`."""
COMPILED = (
    "the pipeline's network is compiled by torch.compile, which a timestep per pixel does not "
    "survive: give the network as it was loaded (after pipe.unet = torch.compile(pipe.unet) that "
    "is pipe.unet._orig_mod)"
)


def check_compiled(network: Module, family: Family) -> None:
    """Refuse a compiled network, or one with compiled blocks, of a family that no test has compared
    with itself uncompiled, and any but blocks that never see time if torch is too old.

    Raises:
        UserError: it is compiled.
    """
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if family.compiles and version >= OLDEST:
        return
    allowed = set(getattr(network, "_repeated_blocks", None) or ()) if family.blind_blocks else ()
    for name, module in network.named_modules():
        if is_compiled(module) and type(module).__name__ not in allowed:
            where = f"{name} is compiled: {COMPILED}" if name else COMPILED
            needs = f" (or use torch {OLDEST[0]}.{OLDEST[1]})" if family.compiles else ""
            raise UserError(where + needs)


def is_compiled(module: Module) -> bool:
    """Compiled as a wrapper (``torch.compile(module)``), in place (``module.compile()``) or by its
    forward (``module.forward = torch.compile(module.forward)``)."""
    return (
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or _find_stock_forward(module) is not None
    )


def has_compiled(network: Module) -> bool:
    """Whether it or any part of it is compiled."""
    return any(map(is_compiled, network.modules()))


@contextmanager
def suspend_compilation(modules: Iterable[Module], layers: Iterable[Module]) -> Iterator[None]:
    """Those of the modules that hold one of the layers run as they are: dynamo does not notice new
    hooks."""
    watched = set(layers)
    with ExitStack() as stack:
        for module in modules:
            if is_compiled(module) and not watched.isdisjoint(module.modules()):
                stack.enter_context(_suspend(module))
        yield


@contextmanager
def _suspend(module: Module) -> Iterator[None]:
    state = vars(module)
    names = {"_compiled_call_impl", "forward"}
    kept = {name: value for name, value in state.items() if name in names}
    if isinstance(module, OptimizedModule):
        state["forward"] = module._orig_mod.__call__
    elif (stock := _find_stock_forward(module)) is not None:
        state["forward"] = stock
    state.pop("_compiled_call_impl", None)
    try:
        yield
    finally:
        for name in names - kept.keys():
            state.pop(name, None)
        state.update(kept)


def _find_stock_forward(module: Module) -> Callable[..., Any] | None:
    """The forward of a module whose forward is compiled; None if it is not."""
    if isinstance(module, OptimizedModule):
        return None
    return getattr(vars(module).get("forward"), "_torchdynamo_orig_callable", None)


@contextmanager
def explain_errors() -> Iterator[None]:
    """Where all must be one graph (``fullgraph=True``), dynamo's own errors hide ours.

    Raises:
        UserError: in their place.
        BackendCompilerFailed: a compiler broke on the graph that dynamo made, or had no memory.
    """
    try:
        yield
    except BackendCompilerFailed:
        raise
    except TorchDynamoException as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"the network's whole graph does not compile ({said}): compile it without "
            "fullgraph=True, or give it as it was loaded"
        ) from error
