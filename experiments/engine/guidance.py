"""The guidance of a run: any object that has a guidance_scale."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Protocol

from asyndm.errors import UserError, is_number, join_lines
from asyndm.guidance import ClassifierFree
from evaluation.choices import build
from experiments.engine import schema

NOT_SAMPLED = frozenset({"label"})
"""What a guidance says to people, and not to the sampler."""


class Guidance(Protocol):
    """What each is asked for; `asyndm.guidance.ClassifierFree` says the rest of itself as well: its
    `label`, whether it `is_off`, its `evaluations`."""

    @property
    def guidance_scale(self) -> float | None: ...


def build_guidance(identity: Mapping[str, Any]) -> Guidance:
    """The guidance of a run's identity.

    Raises:
        UserError: there is no such class, it takes other settings, or it is no guidance.
    """
    return _build(identity)[0]


def read_sampler_arguments(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of `asyndm.sample`, what the guidance of a run's identity is: what its object has that is
    set, be it its own, of its class or a property.

    Raises:
        UserError: as `build_guidance`.
    """
    held = _build(identity)[1]
    return {
        name: value
        for name, value in held.items()
        if name not in NOT_SAMPLED and not callable(value) and not _is_unset(value)
    }


def name_guidance(guidance: Guidance, identity: Mapping[str, Any]) -> str:
    """What it is called in tables; one that says nothing of itself by its class and what is set of
    it."""
    if (own := getattr(guidance, "label", None)) is not None:
        return str(own)
    set_as = ClassifierFree(identity.get("guidance_scale"), identity.get("negative_prompt"))
    return f"{type(guidance).__name__} {set_as.label}".rstrip()


def is_off(guidance: Guidance, guided: bool) -> bool:
    """Whether negative prompts are without effect; of one that says nothing of itself they are
    not."""
    says = getattr(guidance, "is_off", None)
    return bool(says(guided)) if callable(says) else False


def count_evaluations(guidance: Guidance, guided: bool, arguments: Mapping[str, Any]) -> int:
    """Of the network, for each picture in a step; one that says nothing of itself is taken for
    classifier-free guidance.

    Args:
        guided, arguments: as of `ClassifierFree.evaluations`.
    """
    says = getattr(guidance, "evaluations", None)
    if not callable(says):
        negative = getattr(guidance, "negative_prompt", None)
        says = ClassifierFree(guidance.guidance_scale, negative).evaluations
    return int(says(guided, arguments))


def _build(identity: Mapping[str, Any]) -> tuple[Guidance, dict[str, Any]]:
    """A guidance, and all that it has."""
    target = identity.get("_target_", schema.Guidance._target_)
    where = f"guidance._target_={target}"
    try:
        guidance = build({**identity, "_target_": target}, "guidance")
        names = [name for name in dir(guidance) if not name.startswith("_")]
        held = {name: getattr(guidance, name) for name in names if hasattr(guidance, name)}
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith("guidance.") else f"guidance.{text}") from error
    except Exception as error:  # whatever a property of one's own raises
        raise UserError(f"{where}: {type(error).__name__}: {join_lines(error)}") from error
    if "guidance_scale" not in held:
        raise UserError(f"{where}: not a guidance, which has a guidance_scale")
    scale = held["guidance_scale"]
    if scale is not None and (not is_number(scale) or not math.isfinite(scale)):
        raise UserError(
            f"{where}: its guidance_scale is {reprlib.repr(scale)}, which must be a number or None"
        )
    return guidance, held


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)
