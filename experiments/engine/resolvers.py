"""What ``${NAME:...}`` in a config stands for. No heavy import."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig

from asyndm.errors import UserError
from experiments.engine.budget import find_steps


def find_embedded(name: str) -> str:
    """``${embedded:shapes}``, the folder of a model that comes with the library."""
    package = find_spec("asyndm")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / "shapes" / "weights" / name)


def name_checkpoint(path: str, lora: str | None) -> str:
    """``${checkpoint_name:${model.path},${model.lora}}``, the last part of where a model lies, or
    the LoRA that is added to it: so that models that share a choice can be told apart."""
    return Path(lora or path).name.removesuffix(".safetensors")


def find_steps_within(*rows: Any, _root_: DictConfig, _parent_: Container) -> int | str:
    """``${steps_within:40}``, the most steps whose forecast is within so many rows of the network
    for each picture, by the run's own guidance, mask and solver: see
    `experiments.engine.budget.find_steps`. In Hydra's own part of the config it is a text for the
    jobs of a sweep, each of which resolves it for itself."""
    given = ",".join(map(str, rows))
    told = f"${{steps_within:{given}}}"
    where = str(_parent_._get_full_key(None))
    if where.partition(".")[0] == "hydra":
        return told
    if where:
        raise UserError(f"{told} is for num_inference_steps alone, and not for one of {where}")
    return find_steps(_root_, rows[0] if len(rows) == 1 else given)


def choose_for_model(values: Mapping[str, Any], otherwise: Any, *, _root_: DictConfig) -> Any:
    """``${for_model:{sdxl:5.5},5}``, what is recommended with the model of this name, or with those
    whose names go on after it, ``sdxl_turbo``; with all others the second."""
    name = str(_root_.model.name)
    known = [str(key) for key in values if name == key or name.startswith(f"{key}_")]
    return values[max(known, key=len)] if known else otherwise
