"""Another scheduler of diffusers for a pipeline: the same noise levels on other timesteps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import diffusers

from asyndm.errors import UserError, read_first_line
from asyndm.ladder import copy_scheduler, is_flow
from asyndm.protocols import Pipeline

CLASS = "_class_name"
"""Of a scheduler's config, as diffusers writes it."""
END = "Scheduler"


def change_scheduler(pipe: Pipeline, settings: Mapping[str, Any]) -> None:
    """Gives a pipeline the scheduler that its own becomes with other settings:
    ``{"timestep_spacing": "trailing"}``, or ``{"_class_name": "DPMSolverMultistepScheduler",
    "use_karras_sigmas": True}``.

    Which solver makes the steps is not said by it (``asyndm.sample(..., solver=)``). Unlike
    ``from_config``, another class does not clip latents where the config says nothing of it.

    Args:
        settings: of the scheduler's config, by their names in diffusers.

    Raises:
        UserError: no such class or setting, a value that is none, levels of another kind (flow
            matching for diffusion), or a scheduler that cannot be read as a ladder of levels.
    """
    own = pipe.scheduler
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise UserError(
            "scheduler must be settings by their names, as in {timestep_spacing: trailing}, got "
            f"{settings!r}"
        )
    changed = {name: value for name, value in settings.items() if name != CLASS}
    kind = _find_class(settings.get(CLASS, type(own).__name__))
    known = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
    if unknown := [name for name in changed if name not in known]:
        raise UserError(
            f"scheduler.{unknown[0]}: no setting of {kind.__name__}; there are {', '.join(known)}"
        )
    config = {name: value for name, value in own.config.items() if name in known}
    unsaid = {"clip_sample": False} if "clip_sample" in known else {}
    given = ", ".join(f"{name}={value}" for name, value in settings.items())
    try:
        scheduler = kind.from_config({**unsaid, **config, **changed})
        shifted = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        deepcopy(scheduler).set_timesteps(10, **shifted)  # where some values are looked at first
    except Exception as error:  # of some ten kinds
        raise UserError(f"scheduler: {given}: {read_first_line(error)}") from error
    copy_scheduler(scheduler)
    if is_flow(scheduler) != is_flow(own):
        kinds = ("diffusion", "flow matching")
        raise UserError(
            f"scheduler: {given}: its levels are of {kinds[is_flow(scheduler)]}, but the model's "
            f"are of {kinds[is_flow(own)]}"
        )
    pipe.scheduler = scheduler


def _find_class(name: object) -> Any:
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not kind.__name__.endswith(END):
        raise UserError(
            f"scheduler.{CLASS}={name}: no scheduler of diffusers; give the name of a class, such "
            "as DPMSolverMultistepScheduler"
        )
    return kind
