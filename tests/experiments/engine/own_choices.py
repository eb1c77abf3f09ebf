"""Choices of a user's own, good and bad, and the plan of a run with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyndm
from asyndm.guidance import ClassifierFree, Cost, Guidance
from asyndm.masks import DynamicMask, NoMask
from experiments.engine.plan import Plan, make_plan
from tests.experiments.engine.test_schema import compose_config
from tests.lab import Lab


class Half:
    """Guidance at half of its strength."""

    def __init__(self, guidance_scale: float, negative_prompt: str | None = None) -> None:
        self.guidance_scale, self.negative_prompt = guidance_scale / 2, negative_prompt


class Fixed:
    """Guidance of one strength."""

    guidance_scale = 3.0


class Doubled:
    """Guidance that works out its strength."""

    def __init__(self, guidance_scale: float, negative_prompt: str | None = None) -> None:
        self._scale = guidance_scale

    @property
    def guidance_scale(self) -> float:
        return 2 * self._scale

    @property
    def negative_prompt(self) -> str:
        return "blur"


@dataclass(frozen=True, slots=True)
class Slotted:
    """Guidance without a mapping of its attributes."""

    guidance_scale: float
    negative_prompt: str | None = None


class Wordy:
    """Guidance whose strength is no number."""

    guidance_scale = "strong"


class Broken:
    """A choice that cannot be built, whatever its group."""

    def __init__(self, **settings: Any) -> None:
        raise OSError("boom")


class SteadyMask(DynamicMask):
    """A mask that says nothing of itself."""


class Sometimes(NoMask):
    """A mask that is not the one that it is made from."""


class Dear:
    """Guidance that says what it costs."""

    guidance_scale, label = 3.0, "dear"

    def evaluations(self, guided: bool, arguments: dict[str, Any]) -> int:
        return 5


@dataclass(frozen=True)
class Zigzag(Guidance):
    """Guidance of the library's kind, which in its first steps costs more than it says."""

    zigzags: int | None = 1
    strength: float = 2.0

    name = "to_and_fro"

    def count_rows(self, step: int, steps: int, rows: int) -> Cost:
        more = Cost(3, 2, False) if self.zigzags is not None and step <= self.zigzags else Cost(0)
        return super().count_rows(step, steps, rows) + more


@dataclass(frozen=True)
class Seeing(Guidance):
    """Guidance that needs subjects, whatever the mask."""

    needs_subjects = True


@dataclass(frozen=True)
class Rescaled(ClassifierFree):
    """Classifier-free guidance with another argument of the pipeline's call."""

    guidance_rescale: float = 0.7


def load(path: str, **settings: Any) -> Any:
    """Loads a model as all are."""
    return asyndm.load(path, **settings)


def plan_run(lab: Lab, *overrides: str) -> Plan:
    return make_plan(compose_config(*lab.arguments(*overrides)))


def is_same_run(lab: Lab, first: str, second: str) -> bool:
    return plan_run(lab, *first.split()).run_id == plan_run(lab, *second.split()).run_id
