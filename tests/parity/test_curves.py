"""Single advances and whole trajectories of one pixel, against the reference's float32 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from asyndm.curves import Curve, Horizon, Linear
from tests.trajectory import trajectory

from .reference import CURVES, DRIFT, TIMESTEPS, Reference, near_half

Plan = list[tuple[Curve, float]]


def check_walk(plan: Plan, horizon: Horizon, recorded: dict[str, Any]) -> None:
    """Entry i of the plan is followed with N - i updates left: each update, then the whole walk."""
    states = torch.from_numpy(np.asarray(recorded["states"], dtype=np.float32)).double()
    rounded = torch.tensor(recorded["rounded"], dtype=torch.float64)
    t = start = torch.tensor(horizon.t_start, dtype=torch.float64)
    for i, (curve, omega) in enumerate(plan):
        remaining = horizon.num_inference_steps - i
        update = curve.advance(start, remaining, horizon, omega)
        t = curve.advance(t, remaining, horizon, omega)
        assert abs(float(update - states[i])) <= TIMESTEPS, (i, recorded)
        assert update.round() == rounded[i] or near_half(states[i]), (i, recorded)
        assert abs(float(t - states[i])) <= DRIFT, (i, recorded)
        assert t.round() == rounded[i] or near_half(states[i], DRIFT), (i, recorded)
        start = states[i]


def test_single_advances(reference: Reference) -> None:
    for point in reference.curves["points"]:
        horizon = reference.horizon(point["N"])
        state = torch.tensor(point["state"], dtype=torch.float32)
        curved = CURVES[point["curve"]](point["k"]).advance(state, point["rest_step"], horizon)
        line = Linear().advance(state, point["rest_step"], horizon)
        assert abs(float(curved) - point["concave"]) <= TIMESTEPS, point
        assert abs(float(line) - point["linear"]) <= TIMESTEPS, point


def test_trajectories(reference: Reference) -> None:
    for recorded in reference.curves["trajectories"]:
        curve = Linear() if recorded["kind"] == "linear" else CURVES[recorded["curve"]]()
        plan: Plan = [(curve, recorded.get("k", 0.0))] * (recorded["N"] + 1)
        check_walk(plan, reference.horizon(recorded["N"]), recorded)


def test_trajectories_that_change_between_subjects_and_background(reference: Reference) -> None:
    for recorded in reference.curves["switching"]:
        subject = CURVES[recorded["curve"]]()
        plan: Plan = [
            (subject, recorded["k"][who - 1]) if who else (Linear(), 0.0) for who in recorded["plan"]
        ]
        check_walk(plan, reference.horizon(recorded["N"]), recorded)


def test_where_the_reference_breaks_down_we_do_not(reference: Reference) -> None:
    """ω = 0 and ω near 1: finite, monotone, at t_end with no update left."""
    for recorded in reference.curves["degenerate"]:
        if not 0 <= recorded["k"] <= 1:
            continue
        horizon = reference.horizon(recorded["N"])
        curve = CURVES[recorded["curve"]](recorded["k"])
        levels = trajectory(curve, horizon)
        assert torch.isfinite(levels).all() and (levels.diff() <= 0).all()
        assert abs(float(levels[-2]) - horizon.t_end) < 1e-9
        if not recorded["crash"]:
            check_walk([(curve, recorded["k"])] * len(levels), horizon, recorded)
