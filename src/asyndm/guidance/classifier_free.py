"""Guidance as every pipeline has it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from asyndm.guidance.base import Guidance


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """ε = ε_uncond + g (ε_cond - ε_uncond) (arXiv 2207.12598), by the pipeline itself, to the bit;
    g = 1 is the prompt alone, at half the cost. Fields that a class of one's own adds to it are
    arguments of the pipeline's call as well."""

    name = "cfg"

    @property
    def arguments(self) -> dict[str, Any]:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {name: value for name, value in held.items() if value not in (None, "")}
        return {**own, **super().arguments}
