"""How strongly a picture is pulled towards its prompt."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyndm.errors import UserError, is_number, one_line
from evaluation.choices import build

CLASSIFIER_FREE = "experiments.engine.guidance.Guidance"
"""The class of the choices here; an identity names only others."""


@dataclass(frozen=True)
class Guidance:
    """ε = ε_uncond + g (ε_cond - ε_uncond), g = `guidance_scale`; 1 is the prompt alone, at half
    the cost.

    None: the pipeline's own.
    """

    guidance_scale: float | None = None
    negative_prompt: str | None = None


def sampler_arguments(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of `asyndm.sample`, what the guidance of a run's identity is: what its object has that is
    set, be it its own, of its class or a property.

    Raises:
        UserError: there is no such class, it takes other settings, or it is no guidance.
    """
    target = identity.get("_target_", CLASSIFIER_FREE)
    where = f"guidance._target_={target}"
    try:
        guidance = build({**identity, "_target_": target}, "guidance")
        names = [name for name in dir(guidance) if not name.startswith("_")]
        held = {name: getattr(guidance, name) for name in names if hasattr(guidance, name)}
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith("guidance.") else f"guidance.{text}") from error
    except Exception as error:  # whatever a property of one's own raises
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}") from error
    if "guidance_scale" not in held:
        raise UserError(f"{where}: not a guidance, which has a guidance_scale")
    scale = held["guidance_scale"]
    if scale is not None and (not is_number(scale) or not math.isfinite(scale)):
        raise UserError(
            f"{where}: its guidance_scale is {reprlib.repr(scale)}, which must be a number or None"
        )
    return {
        name: value for name, value in held.items() if not callable(value) and not _is_unset(value)
    }


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)
