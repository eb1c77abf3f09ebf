"""All checks by name, those that take least first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from experiments.gpu_check import (
    compilation,
    leases,
    memory,
    metrics,
    profile,
    sampling,
    step_cost,
    waits,
)
from experiments.gpu_check.parts import Part, Setting

CHECKS: dict[str, Callable[[Setting], Iterator[Part]]] = {
    module.CHECK: module.list_parts
    for module in (waits, memory, leases, sampling, metrics, profile, step_cost, compilation)
}
