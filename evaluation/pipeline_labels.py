"""What tells a run's pipeline from others in tables, beside the name of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OTHERWISE_TOLD = ("weights", "hub", "revision", "dtype")
CLASS = "_class_name"
"""Of a scheduler's settings."""
DIGITS = 6
"""Of a hash that is read by people."""


def name_weights(identity: Mapping[str, Any]) -> str:
    """The hash of weights on a disk, or where they are on the hub: "org/name", "org/name@main"."""
    model = identity["model"]
    hub = (model.get("hub"), model.get("revision"))
    return str(model.get("weights") or "@".join(filter(None, hub)))


def name_pipeline(identity: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What it was loaded and is called with, as text: "clip_skip=1 timestep_spacing=trailing".

    Args:
        identity: of a run.
        config: of the same run, which has the name of a LoRA that is known by its content.
    """
    told = {**identity.get("pipeline_arguments", {}), **dict(_list_loaded(identity, config))}
    return " ".join(f"{name}={value}" for name, value in sorted(told.items()))


def _list_loaded(
    identity: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    for name, value in identity["model"].items():
        if name == "scheduler":
            changed = dict(value)
            if CLASS in changed:
                yield name, changed.pop(CLASS)
            yield from changed.items()
        elif name == "lora":
            given = str(config["model"].get("lora") or value)
            yield name, value if value == given else f"{Path(given).stem}-{str(value)[:DIGITS]}"
        elif name not in OTHERWISE_TOLD:
            yield name.strip("_"), value
