"""Single advances and whole trajectories of one pixel, against the reference's float32 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm.curves import Curve, Linear
from tests.trajectory import record_trajectory

from .reference import CURVES, DRIFT, TIMESTEPS, Reference, is_near_half

Plan = list[tuple[Curve, float]]


def advance(
    reference: Reference, curve: Curve, t: Tensor, remaining: int, steps: int, omega: float
) -> Tensor:
    """From timestep to timestep; with no update left to 0."""
    if remaining == 0:
        return torch.zeros_like(t)
    rungs = curve.advance(reference.to_rungs(t, steps), remaining, steps, omega)
    return reference.to_timesteps(rungs, steps)


def check_walk(reference: Reference, plan: Plan, recorded: dict[str, Any]) -> None:
    """Entry i of the plan is followed with N - i updates left: each update, then the whole walk."""
    steps = recorded["N"]
    states = torch.from_numpy(np.asarray(recorded["states"], dtype=np.float32)).double()
    rounded = torch.tensor(recorded["rounded"], dtype=torch.float64)
    t = start = reference.to_timesteps(torch.tensor(steps, dtype=torch.float64), steps)
    for i, (curve, omega) in enumerate(plan):
        update = advance(reference, curve, start, steps - i, steps, omega)
        t = advance(reference, curve, t, steps - i, steps, omega)
        assert abs(float(update - states[i])) <= TIMESTEPS, (i, recorded)
        assert update.round() == rounded[i] or is_near_half(states[i]), (i, recorded)
        assert abs(float(t - states[i])) <= DRIFT, (i, recorded)
        assert t.round() == rounded[i] or is_near_half(states[i], DRIFT), (i, recorded)
        start = states[i]


def test_single_advances(reference: Reference) -> None:
    for point in reference.curves["points"]:
        state = torch.tensor(point["state"], dtype=torch.float32)
        where = (state, point["rest_step"], point["N"], point["k"])
        curved = advance(reference, CURVES[point["curve"]](), *where)
        line = advance(reference, Linear(), *where)
        assert abs(float(curved) - point["concave"]) <= TIMESTEPS, point
        assert abs(float(line) - point["linear"]) <= TIMESTEPS, point


def test_trajectories(reference: Reference) -> None:
    for recorded in reference.curves["trajectories"]:
        curve = Linear() if recorded["kind"] == "linear" else CURVES[recorded["curve"]]()
        plan: Plan = [(curve, recorded.get("k", 0.0))] * (recorded["N"] + 1)
        check_walk(reference, plan, recorded)


def test_trajectories_that_change_between_subjects_and_background(reference: Reference) -> None:
    for recorded in reference.curves["switching"]:
        subject = CURVES[recorded["curve"]]()
        plan: Plan = [
            (subject, recorded["k"][who - 1]) if who else (Linear(), 0.0)
            for who in recorded["plan"]
        ]
        check_walk(reference, plan, recorded)


def test_where_the_reference_breaks_down_we_do_not(reference: Reference) -> None:
    """ω = 0 and ω near 1: finite, monotone, on the last rung with no update left."""
    for recorded in reference.curves["degenerate"]:
        if not 0 <= recorded["k"] <= 1:
            continue
        steps = recorded["N"]
        curve = CURVES[recorded["curve"]](recorded["k"])
        levels = reference.to_timesteps(record_trajectory(curve, steps), steps)
        assert torch.isfinite(levels).all() and (levels.diff() <= 0).all()
        assert abs(float(levels[-1] - reference.to_timesteps(torch.zeros(()), steps))) < 1e-9
        if not recorded["crash"]:
            check_walk(reference, [(curve, recorded["k"])] * (steps + 1), recorded)
