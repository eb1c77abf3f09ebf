"""Runs of the methods that plans name, written without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyndm.shapes.planted import PlantedMask
from tests.written_runs import Counts, Method, make_method, write_run

THINGS = make_method("ThingsMask", "Quadratic", threshold=2.0)
PLANTED = {**THINGS, "mask": {"_target_": "asyndm.shapes.planted.PlantedMask"}}
AHEAD = {**PLANTED, "mask": {**PLANTED["mask"], "ahead": True}}
ANOTHER = {**PLANTED, "mask": {**PLANTED["mask"], "layout_of": "another"}}
TOLD = {"label": PlantedMask.label, "bends": True}


def write_arm(
    root: Path,
    name: str,
    right: Sequence[float],
    method: Method,
    model: str = "shapes_mixed",
    scale: float = 2.0,
    steps: int = 20,
    seed: int = 0,
    counts: Sequence[Counts] | None = None,
) -> None:
    """A run of six prompts under a method of the plan."""
    record: dict[str, Any] = {
        "config": {"model": {"name": model}, "prompt_set": {"name": "shapes"}}
    }
    if "planted" in method["mask"]["_target_"]:
        record["choices"] = {"mask": TOLD}
    write_run(
        root,
        f"{name}-{model}-{scale:g}-{seed}",
        right,
        method,
        record=record,
        counts=counts or [(0, 0)] * len(right),
        num_inference_steps=steps,
        seed=seed,
        guidance={"guidance_scale": scale, "negative_prompt": None},
    )
