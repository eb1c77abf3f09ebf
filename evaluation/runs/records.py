"""What must hold of a run's record before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST = 1e15
"""No count and no number of seconds in a record is larger."""
MOST_THREADS = 4096
PARTS = ("config", "identity", "timings")
"""Mappings that no record lacks."""


def is_number(value: Any) -> bool:
    """Whether it can be a count or a time: finite, not negative, of a size that occurs."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def is_count(value: Any) -> bool:
    """Whether it can be a number of things of which there is at least one."""
    return isinstance(value, int) and is_number(value) and value >= 1


def find_flaw(record: Any) -> str | None:
    """What of a record read from a file cannot be, in a few words; None where nothing is wrong with
    it."""
    if not isinstance(record, dict):
        return "not a mapping"
    if not is_count(record.get("schema_version")):
        return "no schema_version"
    for part in PARTS:
        if not isinstance(record.get(part), dict):
            return f"no {part}"
    return next(
        (name for name, holds in _EXPECTED.items() if name in record and not holds(record[name])),
        None,
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_device(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("type", ""), str):
        return False
    threads = value.get("threads")
    return threads is None or (is_count(threads) and threads <= MOST_THREADS)


def _are_makers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(maker, dict)
        and is_number(maker.get("images"))
        and isinstance(maker.get("versions"), dict)
        and isinstance(maker.get("git_commit"), str | None)
        and isinstance(maker.get("device", ""), str)
        for maker in value
    )


_EXPECTED: dict[str, Callable[[Any], bool]] = {
    "run_id": lambda value: isinstance(value, str),
    "label": lambda value: isinstance(value, str),
    "batch_size": is_count,
    "versions": _is_mapping,
    "git_commit": lambda value: isinstance(value, str | None),
    "metrics": _is_mapping,
    "device": _is_device,
    "made_with": _are_makers,
    "timings": lambda value: all(map(is_number, value.values())),
}
