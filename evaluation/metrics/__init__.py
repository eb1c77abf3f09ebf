"""What a metric is: given pictures and their prompts, a value for each, and the reason where there is one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from PIL.Image import Image

from asyndm.prompts import Prompt


@dataclass(frozen=True)
class Score:
    """`value` is None where the picture could not be scored; `reason` says why, or what is wrong with it."""

    value: float | None
    reason: str = ""

    @classmethod
    def of(cls, value: float, reason: str = "") -> Self:
        """A model's value; none, with that as the reason, where it is no finite number."""
        return cls(value, reason) if math.isfinite(value) else cls(None, "the model gives no number")


class Metric(ABC):
    """One opinion of pictures. A subclass is one file here and one YAML in ``conf/metric``.

    Attributes:
        name: its name in ``scores.csv``; two conventions of one metric have two names.
        version: raised when it begins to give the same pictures other scores.
    """

    name: str
    version: int = 1

    @property
    def basis(self) -> dict[str, Any]:
        """What its numbers rest on beside the pictures, as ``run.json`` keeps it: version, convention, model.
        Scores of another basis are replaced."""
        return {"version": self.version}

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        """Refuses, before anything is sampled, what it could not score: prompts without what it needs,
        pictures of a size (height, width) it does not know, missing weights.

        Raises:
            UserError: naming what is missing.
        """
        return

    @abstractmethod
    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        """One score for each picture, given its prompt; independent of the other pictures of the batch."""
