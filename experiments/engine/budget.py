"""As many steps as a number of network rows allows, for methods to be compared at equal cost."""

from __future__ import annotations

import json
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asyndm.errors import UserError, is_number
from asyndm.masks import Mask
from evaluation.labels import weigh_rows
from evaluation.runs.row_files import warn_once
from experiments.engine.guidance import build_guidance, forecast_rows
from experiments.engine.identity import build_choice, build_solver
from experiments.engine.settings import RANGES, read_pipeline_arguments
from experiments.engine.values import settle_values

SETTING = "num_inference_steps"
GROUPS = ("guidance", "mask", "solver", "model")
"""What a number of rows depends on."""
_is_asked = ContextVar("_is_asked", default=False)
"""Whether a number of steps is being found: what it depends on must not depend on it."""


def find_steps(config: DictConfig, rows: object) -> int:
    """The largest N whose forecast for a picture is within so many rows: rows forward, and twice
    those backward, as such a pass takes about two forward; a mask's rehearsal among them.
    At least 1, with a warning where that costs more.

    Args:
        config: of a job; `num_inference_steps` itself is not looked at.
        rows: a number.

    Raises:
        UserError: no number of at least 1, or a choice that is none.
    """
    if not is_number(rows) or not rows >= 1:
        raise UserError(f"{SETTING}=${{steps_within:{rows}}}: give a number of at least 1")
    if _is_asked.get():
        raise UserError(
            f"{SETTING}=${{steps_within:{rows}}}: depends on itself, as a setting of "
            f"{', '.join(GROUPS[:-1])} or {GROUPS[-1]} is ${{{SETTING}}}"
        )
    asked = _is_asked.set(True)
    try:
        of: dict[str, Any] = {
            group: OmegaConf.to_container(config[group], resolve=True, enum_to_str=True)
            for group in GROUPS
        }
    finally:
        _is_asked.reset(asked)
    given = read_pipeline_arguments(of["model"])
    if (own := config.get("pipeline_arguments")) is not None:
        own = OmegaConf.to_container(own, resolve=True) if OmegaConf.is_config(own) else own
        given = given | read_pipeline_arguments({"pipeline_arguments": own})
    of["model"] = {"guided": bool(of["model"].get("guided", True))}
    name = of["guidance"].get("name")
    steps, cost = _find_steps(json.dumps([of, given]), float(rows))
    if cost > rows:
        warn_once(
            f"{SETTING}=${{steps_within:{rows}}}: a single step of guidance={name} can cost "
            f"{cost:g} rows, and is made all the same; give as many"
        )
    return steps


@lru_cache(maxsize=1024)
def _find_steps(choices: str, rows: float) -> tuple[int, float]:
    """Of choices as JSON, and what they cost. A step is a row or more, so no more steps than rows
    are tried."""
    of, arguments = json.loads(choices)
    guidance = build_guidance(settle_values("guidance", of["guidance"]))
    solver = build_solver(settle_values("solver", of["solver"]))
    mask = build_choice("mask", of["mask"], Mask)  # type: ignore[type-abstract]
    guided: bool = of["model"]["guided"]

    def weigh(steps: int) -> float:
        cost = forecast_rows(guidance, mask, steps, guided, arguments, solver.evaluations)
        return weigh_rows(cost.forward, cost.backward)

    most = int(min(rows, RANGES[SETTING][1]))
    steps = next((steps for steps in range(most, 1, -1) if weigh(steps) <= rows), 1)
    return steps, weigh(steps)
