"""What tells a run from others in tables and figures: its method, its settings and its prompts'
subjects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any

from asyndm.errors import UserError, first_line
from asyndm.subjects import Subject
from evaluation.runs.files import REMEDY, read_json
from evaluation.runs.folder import PROMPTS_FILE, RUN_FILE, Run

METHODS = {
    "NoMask": "DM",
    "GlobalMask": "DM_concave",
    "DynamicMask": "AsynDM",
    "StaticMask": "AsynDM_static",
    "ExternalMask": "AsynDM_external",
}
"""What the masks are called as methods."""

READING: dict[str, Any] = {
    "attention_factor": None,
    "attention_layers": None,
    "attention_keys": "joint",
    "attention_text": "both",
    "text_level": "mean",
}
"""What masks are made of, and what is not worth telling."""


def method_name(mask: str) -> str:
    """ "asyndm.masks.DynamicMask" -> "AsynDM"."""
    name = mask.rpartition(".")[2]
    return METHODS.get(name, name)


def curve_name(curve: str) -> str:
    """ "asyndm.curves.PiecewiseLinear" -> "piecewise_linear"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", curve.rpartition(".")[2]).lower()


def labels(run: Run) -> dict[str, Any]:
    """What tells a run from others in a table.

    Raises:
        UserError: the run's record lacks some of it.
    """
    try:
        of = _labels(run)
        for name, value in of.items():
            _check_label(name, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = (
            f"no {error}"
            if isinstance(error, KeyError)
            else first_line(error, type(error).__name__)
        )
        raise UserError(
            f"{run.folder / RUN_FILE}: not the record of a run ({why}); {REMEDY}"
        ) from error
    return of


def _check_label(name: str, value: Any) -> None:
    """Refuses what is no text, number or nothing.

    Raises:
        ValueError: it is none of these.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str | int | float | None) for part in parts):
        raise ValueError(f"{name} is neither text nor number")
    if not all(math.isfinite(part) for part in parts if isinstance(part, float)):
        raise ValueError(f"{name} is no finite number")
    if name == "steps" and not isinstance(value, int | float):
        raise ValueError("steps is no number")


def _labels(run: Run) -> dict[str, Any]:
    identity, config = run.identity, run.record["config"]
    mask, curve, model = identity["mask"], identity["curve"], identity["model"]
    method = method_name(mask["_target_"])
    rest = {key: value for key, value in mask.items() if key not in ("_target_", "threshold")}
    chosen = (config.get("subjects") or {}).get("name", "given")
    if chosen != "given" and method_name(mask["_target_"]) != "DM":
        rest["subjects"] = chosen
    for name, default in READING.items():
        if identity.get(name, default) != default:
            rest[name] = identity[name]
    rest |= identity.get("pipeline_arguments", {})
    version = model.get("weights") or model.get("revision") or ""
    return {
        "model": (config["model"]["name"], version, model["dtype"]),
        "prompt_set": _prompt_set(config["prompt_set"]),
        "method": method,
        "curve": "" if method == "DM" else curve_name(curve["_target_"]),
        "concavity": curve.get("concavity", ""),
        "threshold": mask.get("threshold", ""),
        "settings": " ".join(f"{key}={value}" for key, value in sorted(rest.items())),
        "steps": identity["num_inference_steps"],
        "eta": identity["eta"],
        "guidance": _guidance(identity["guidance"], identity.get("negative_prompts")),
        "height": identity["height"],
        "width": identity["width"],
        "noise": identity.get("noise", "shared"),
        "recipe": identity["recipe"],
    }


def _prompt_set(choice: Mapping[str, Any]) -> str:
    """The set with the part of it that was drawn: "shapes/test", "file/mine"."""
    path = choice.get("path") or choice.get("prompts_path")
    part = choice.get("split") or (Path(path).stem if path else "")
    return f"{choice['name']}/{part}" if part else str(choice["name"])


def subjects_of(run: Run) -> Mapping[tuple[str, str], str]:
    """Prompt -> its subjects and their concavities, as text; DM has no use for them.

    Raises:
        UserError: the run's prompts cannot be read.
    """
    if (
        method_name(run.identity["mask"]["_target_"]) == "DM"
        or not (run.folder / PROMPTS_FILE).exists()
    ):
        return {}
    path = run.folder / PROMPTS_FILE
    written = path.stat()
    return _subjects_in(path, written.st_mtime_ns, written.st_size)


def prompt_ids(run: Run) -> list[str]:
    """Its prompts in the order of their set.

    Raises:
        UserError: the run's prompts cannot be read.
    """
    path = run.folder / PROMPTS_FILE
    try:
        return [entry["prompt_id"] for entry in read_json(path)]
    except (OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the prompts of a run ({first_line(error)}); {REMEDY}"
        ) from error


@lru_cache(maxsize=64)
def _subjects_in(path: Path, *written: int) -> Mapping[tuple[str, str], str]:
    """Of a file as last written. Whether the subjects are in their texts was seen when it was."""
    entries = read_json(path)
    try:
        return {
            (intern(entry["prompt_id"]), intern(entry["text"])): intern(
                json.dumps([vars(Subject(**subject)) for subject in entry["subjects"]])
            )
            for entry in entries
        }
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path}: not the prompts of a run ({first_line(error)}); {REMEDY}"
        ) from error


def _guidance(guidance: Mapping[str, Any], own: str | None) -> str:
    """`own`: a digest of the negative prompts that prompts have of their own."""
    scale, negative = guidance.get("guidance_scale"), guidance.get("negative_prompt")
    other = guidance.get("_target_", "").rpartition(".")[2]
    words = [other, "" if scale is None else f"{scale:g}", f"not {negative!r}" if negative else ""]
    words += [f"negative_prompts={own}"] if own else []
    return " ".join(filter(None, words))
