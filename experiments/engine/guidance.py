"""The guidance of a run: one of the library's kind, or any object that has a guidance_scale."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Protocol

from asyndm.choices import to_snake_case
from asyndm.errors import UserError, is_number, join_lines
from asyndm.guidance import ClassifierFree, Cost, Guidance
from asyndm.masks import Mask
from evaluation.choices import build
from experiments.engine import schema
from experiments.engine.values import restore_values

NOT_SAMPLED = frozenset({"label"})
"""What a guidance says to people, and not to the sampler."""


class GuidanceLike(Protocol):
    """What each is asked for. One of the library's kind is handed to the sampler; of another what
    it holds are arguments of the pipeline's call, and it can say the rest of itself as well: its
    `label`, whether it `is_off`, its `evaluations`."""

    @property
    def guidance_scale(self) -> float | None: ...


def build_guidance(identity: Mapping[str, Any]) -> GuidanceLike:
    """The guidance of a run's identity.

    Raises:
        UserError: there is no such class, it takes other settings, or it is no guidance.
    """
    return _build(identity)[0]


def read_sampler_arguments(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of the pipeline's call, what the guidance of a run's identity sets: what one of the library's
    kind says, or all that another object has that is set, be it its own, of its class or a
    property.

    Raises:
        UserError: as `build_guidance`.
    """
    guidance, held = _build(identity)
    if isinstance(guidance, Guidance):
        return guidance.arguments
    return {
        name: value
        for name, value in held.items()
        if name not in NOT_SAMPLED and not callable(value) and not _is_unset(value)
    }


def is_handed_over(guidance: GuidanceLike) -> bool:
    """Whether the sampler is given the object itself: it does more than the pipeline alone."""
    return isinstance(guidance, Guidance) and type(guidance) is not ClassifierFree


def as_library_guidance(guidance: GuidanceLike) -> Guidance:
    """The guidance as the sampler takes it; of one that is not of the library's kind what the
    pipeline makes of its arguments."""
    return guidance if isinstance(guidance, Guidance) else ClassifierFree()


def name_guidance(guidance: GuidanceLike, identity: Mapping[str, Any]) -> str:
    """What it is called in tables; one that says nothing of itself by its class and what is set of
    it."""
    if (own := getattr(guidance, "label", None)) is not None:
        return str(own)
    set_as = ClassifierFree(identity.get("guidance_scale"), identity.get("negative_prompt"))
    return f"{type(guidance).__name__} {set_as.label}".rstrip()


def name_in_folders(guidance: GuidanceLike) -> str:
    """The word that tells its runs' folders from those of classifier-free guidance, which have
    none."""
    if isinstance(guidance, Guidance):
        return "" if guidance.name == Guidance.name else guidance.name
    return to_snake_case(type(guidance).__name__)


def needs_subjects(guidance: GuidanceLike) -> bool:
    """Whether it refuses prompts without subjects."""
    return bool(getattr(guidance, "needs_subjects", False))


def is_off(guidance: GuidanceLike, guided: bool) -> bool:
    """Whether negative prompts are without effect; of one that says nothing of itself they are
    not."""
    says = getattr(guidance, "is_off", None)
    return bool(says(guided)) if callable(says) else False


def forecast_rows(
    guidance: GuidanceLike,
    mask: Mask,
    steps: int,
    guided: bool,
    arguments: Mapping[str, Any],
    evaluations: int = 1,
) -> Cost:
    """Of the network's batch, for each picture of N steps, those of its mask's rehearsal among
    them.

    Args:
        steps: N.
        guided, arguments: as of `Guidance.evaluations`.
        evaluations: of the solver in each step but the last, which has one.
    """

    def count(until: int) -> Cost:
        return _forecast_steps(guidance, steps, guided, arguments, evaluations, until)

    rehearsed = mask.count_rehearsed(steps)
    return count(steps) + count(rehearsed) if rehearsed else count(steps)


def _forecast_steps(
    guidance: GuidanceLike,
    steps: int,
    guided: bool,
    arguments: Mapping[str, Any],
    evaluations: int,
    until: int,
) -> Cost:
    """Rows of the first steps of N. A guidance that says nothing of itself is taken for
    classifier-free guidance."""
    if isinstance(guidance, Guidance):
        if until == steps:
            return guidance.cost(steps, guided, arguments, evaluations)
        return guidance.cost(steps, guided, arguments, evaluations, until)
    says = getattr(guidance, "evaluations", None)
    if not callable(says):
        negative = getattr(guidance, "negative_prompt", None)
        says = ClassifierFree(guidance.guidance_scale, negative).evaluations
    made = until * evaluations if until < steps else (steps - 1) * evaluations + 1
    return Cost(float(says(guided, arguments) * made))


def _build(identity: Mapping[str, Any]) -> tuple[GuidanceLike, dict[str, Any]]:
    """A guidance, and all that it has."""
    target = identity.get("_target_", schema.Guidance._target_)
    where = f"guidance._target_={target}"
    try:
        guidance = build(restore_values({**identity, "_target_": target}), "guidance")
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
