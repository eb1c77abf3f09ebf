"""A run's record, ``run.json``: read, and refused where it says what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.files import REMEDY, ForeignFile, read_json

RUN_FILE = "run.json"
MASK_FACTS = ("bends", "uniform", "follows_attention", "rehearses")
"""What a record says of its mask beside the label, as `asyndm.masks.Mask` has them."""
SCHEMA_VERSION = 1
"""Of the record and the tables; an older program refuses a newer one. Raise it when they cannot be
read as before."""

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


def read_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        UserError: no run there, or a damaged one.
        ForeignFile: it was written by a newer version, or is no file.
    """
    path = folder / RUN_FILE
    try:
        record: Any = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {RUN_FILE} there") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version is not None and is_newer(version):
        raise ForeignFile(
            f"{path}: schema version {version} is newer than this program's {SCHEMA_VERSION}; "
            "update it"
        )
    if flaw := find_flaw(record):
        raise UserError(f"{path}: not the record of a run ({flaw}); {REMEDY}")
    return dict(record)


def is_newer(version: Any) -> bool:
    """Whether a record's schema version is none of this program's or an earlier one's, which are
    numbers."""
    return (
        isinstance(version, bool)
        or not isinstance(version, int | float)
        or version > SCHEMA_VERSION
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


def _are_choices(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(choice, dict)
        and isinstance(choice.get("label"), str)
        and all(isinstance(choice.get(fact, True), bool) for fact in (*MASK_FACTS, "exact"))
        and all(is_number(choice.get(name, 0)) for name in ("forward", "backward"))
        for choice in value.values()
    )


def _are_evaluations(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    rows, images, backward = value.get("rows"), value.get("images"), value.get("backward", 0)
    if backward != 0 and not is_count(backward):
        return False
    return (rows == 0 and images == 0) or (is_count(rows) and is_count(images))


_EXPECTED: dict[str, Callable[[Any], bool]] = {
    "run_id": lambda value: isinstance(value, str),
    "label": lambda value: isinstance(value, str),
    "batch_size": is_count,
    "batch_invariant": lambda value: value is None or isinstance(value, bool),
    "versions": _is_mapping,
    "git_commit": lambda value: isinstance(value, str | None),
    "metrics": _is_mapping,
    "device": _is_device,
    "made_with": _are_makers,
    "choices": _are_choices,
    "evaluations": _are_evaluations,
    "timings": lambda value: all(map(is_number, value.values())),
}
