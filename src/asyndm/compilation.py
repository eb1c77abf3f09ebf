"""Networks compiled by torch.compile: which can be told a timestep per pixel, and which are
refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._dynamo import OptimizedModule
from torch.nn import Module

from asyndm.errors import UserError
from asyndm.networks import Family

COMPILED = (
    "the pipeline's network is compiled by torch.compile, which a timestep per pixel does not "
    "survive: give the network as it was loaded (after pipe.unet = torch.compile(pipe.unet) that "
    "is pipe.unet._orig_mod)"
)


def check_uncompiled(network: Module, family: Family) -> None:
    """Refuse a compiled network, and compiled blocks but those that never see time
    (compile_repeated_blocks of UNets).

    Raises:
        UserError: it is compiled.
    """
    if _is_compiled(network):
        raise UserError(COMPILED)
    allowed = set(getattr(network, "_repeated_blocks", None) or ()) if family.compiles else set()
    for name, module in network.named_modules():
        if module is not network and _is_compiled(module) and type(module).__name__ not in allowed:
            raise UserError(f"{name} is compiled: {COMPILED}")


def _is_compiled(module: Module) -> bool:
    """Compiled as a wrapper (``torch.compile(module)``) or in place (``module.compile()``)."""
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


@contextmanager
def suspend_compilation(network: Module, layers: list[Module]) -> Iterator[None]:
    """Blocks compiled one by one run as they are where their attention is read: dynamo does not
    notice new hooks."""
    read = set(layers)
    blocks = {
        module: module._compiled_call_impl
        for module in network.modules()
        if module._compiled_call_impl is not None and not read.isdisjoint(module.modules())
    }
    try:
        for block in blocks:
            block._compiled_call_impl = None
        yield
    finally:
        for block, compiled in blocks.items():
            block._compiled_call_impl = compiled
