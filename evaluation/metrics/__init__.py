"""What a metric is: given pictures and their prompts, a value for each, and the reason where there
is one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from PIL.Image import Image

from asyndm.errors import UserError
from evaluation.networks.weights import EMBEDDED, check_settings, check_weights, identify
from evaluation.runs.prompts import Prompt

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Score:
    """`value` is None where the picture could not be scored; `reason` says why, or what is wrong
    with it. `surplus` and `missing` are how many things it has more and fewer than asked for, None
    where they are not counted."""

    value: float | None
    reason: str = ""
    surplus: int | None = None
    missing: int | None = None

    @classmethod
    def of(cls, value: float, reason: str = "") -> Self:
        """A model's value; none, with that as the reason, where it is no finite number."""
        return (
            cls(value, reason) if math.isfinite(value) else cls(None, "the model gives no number")
        )


class Metric(ABC):
    """One opinion of pictures. A subclass is one file here and one YAML in ``conf/metric``.

    Attributes:
        name: its name in ``scores.csv``; two conventions of one metric have two names.
        version: raised when it begins to give the same pictures other scores.
        higher_is_better: what a good picture has.
        counts_things: whether each value comes with `surplus` and `missing`. Scores that lack them
            are completed.
    """

    name: str
    version: int = 1
    higher_is_better: bool = True
    counts_things: bool = False

    @property
    def basis(self) -> dict[str, Any]:
        """What its numbers rest on beside the pictures, as ``run.json`` keeps it: version,
        convention, model. Scores of another basis are replaced."""
        return {"version": self.version, "higher_is_better": self.higher_is_better}

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        """Refuses, before anything is sampled, what it could not score: prompts without what it
        needs, pictures of a size (height, width) it does not know, missing weights.

        Raises:
            UserError: naming what is missing.
        """
        return

    @abstractmethod
    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        """One score for each picture, given its prompt; independent of the other pictures of the
        batch."""

    def release(self) -> bool:
        """Lets go of what scoring has loaded.

        Returns:
            whether anything was.
        """
        return False


@dataclass(eq=False)
class ModelMetric(Metric, Generic[Loaded]):
    """A metric with a network, loaded when the first picture is scored and kept until `release`.

    Its settings, the fields of the dataclass, are its basis; weights on this disk are named there
    by a hash of their files, so that a folder may move and a changed one is noticed; `dtype` is
    there as it is computed in.

    Attributes:
        model: a folder, or ORG/NAME of the hub.
        revision: on the hub.
        dtype: of the network, float32, bfloat16 or float16; auto: float32 on a CPU, `gpu_dtype` on
            a GPU.
        device: cpu, cuda, or auto.

    Raises:
        UserError: unknown dtype.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    embedded: ClassVar[str] = ""
    """The folder of the shapes world's own model, which the name "shapes" stands for."""
    gpu_dtype: ClassVar[str] = "float32"
    """What the original computes in."""
    models: ClassVar[tuple[str, ...]] = ("model",)
    """The settings that name weights, tokenizers and the like."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(
                f"metric {self.name}: dtype={self.dtype}: choose from {', '.join(DTYPES)}"
            )
        if self.embedded and self.model == "shapes":
            self.model = str(EMBEDDED / self.embedded)
        for setting in self.models:
            if (source := getattr(self, setting)) is not None and source.startswith("~"):
                setattr(self, setting, str(Path(source).expanduser()))

    @property
    def basis(self) -> dict[str, Any]:
        own = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "device"
        }
        for setting in self.models:
            if own[setting] is not None:
                own[setting] = identify(
                    own[setting], own.get("revision") if setting == "model" else None
                )
        own.pop("revision")
        own["dtype"] = str(self.precision).removeprefix("torch.")
        return {**super().basis, **own}

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        self.check_device()
        self.check_weights()

    def check_weights(self) -> None:
        """Sees to it that weights and what goes with them are here.

        Raises:
            UserError: naming what is not.
        """
        try:
            check_weights(self.model, self.revision)
            for setting in self.models[1:]:
                if (source := getattr(self, setting)) is not None:
                    check_settings(source)
        except UserError as error:
            raise UserError(f"metric {self.name}: {error}") from error

    def check_device(self) -> None:
        """Refuses a device that is not here.

        Raises:
            UserError: naming it.
        """
        try:
            assert self.where
        except UserError as error:
            raise UserError(f"metric {self.name}: device={self.device}: {error}") from error

    @abstractmethod
    def load(self) -> Loaded:
        """The network on `where`, in `precision`, and what goes with it.

        Raises:
            UserError: it cannot be loaded.
        """

    @cached_property
    def loaded(self) -> Loaded:
        """What `load` gives, once."""
        return self.load()

    @property
    def where(self) -> torch.device:
        """The device chosen."""
        from asyndm.models import choose_device

        return choose_device(self.device)

    @property
    def precision(self) -> torch.dtype:
        """The dtype chosen."""
        import torch

        automatic = "float32" if self.where.type == "cpu" else self.gpu_dtype
        chosen: torch.dtype = getattr(torch, automatic if self.dtype == "auto" else self.dtype)
        return chosen

    def release(self) -> bool:
        was_loaded = self.__dict__.pop("loaded", None) is not None
        if was_loaded and self.where.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        return was_loaded
