"""How strongly a picture is pulled towards its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyndm.errors import UserError
from evaluation.choices import build

CLASSIFIER_FREE = "experiments.guidance.Guidance"
"""The class of the choices here; an identity names only others."""


@dataclass(frozen=True)
class Guidance:
    """ε = ε_uncond + g (ε_cond - ε_uncond), g = `guidance_scale`; 1 is the prompt alone, at half the cost.

    None: the pipeline's own.
    """

    guidance_scale: float | None = None
    negative_prompt: str | None = None


def sampler_arguments(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of `asyndm.sample`, what the guidance of a run's identity is: the attributes of its class that are set.

    Raises:
        UserError: there is no such class, it takes other settings, or it is no guidance.
    """
    target = identity.get("_target_", CLASSIFIER_FREE)
    try:
        guidance = build({**identity, "_target_": target})
    except UserError as error:
        raise UserError(f"guidance.{error}") from error
    if not hasattr(guidance, "guidance_scale") or not hasattr(guidance, "__dict__"):
        raise UserError(f"guidance._target_={target}: not a guidance, which has a guidance_scale")
    own = {name: value for name, value in vars(guidance).items() if not name.startswith("_")}
    return {name: value for name, value in own.items() if value not in (None, "")}
