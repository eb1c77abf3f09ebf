"""Settings of guidances and solvers, in the one form in which a run is known by them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from asyndm.errors import UserError
from asyndm.guidance import Guidance
from asyndm.solvers import Solver
from evaluation.choices import NOT_BUILT_WITH, find_object

INFINITE = {"inf": math.inf, "-inf": -math.inf}
"""How records have what JSON has no number for."""
YAML_NUMBERS = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
"""How YAML has them, which Hydra's command line takes for text."""
Parameters = Mapping[str, inspect.Parameter]


def settle_values(group: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice whose numbers are written in one way: 3 as 3.0 where its class has a float there, an
    infinite one as text, be it ``inf``, as Hydra's command line has it, or YAML's ``.inf``.

    Raises:
        UserError: one is not a number, or is neither true nor false where its class asks for that.
    """
    parameters = find_parameters(choice["_target_"])
    return {
        name: _settle(f"{group}.{name}", value, parameters.get(name))
        for name, value in choice.items()
    }


def restore_values(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with its infinite numbers, as its class takes them."""
    parameters = find_parameters(choice["_target_"])
    return {
        name: _restore(value) if _is_float(parameters.get(name)) else value
        for name, value in choice.items()
    }


def is_unset(name: str, value: object, parameters: Parameters) -> bool:
    """Whether a setting is left to the class: nothing, where nothing is also its default."""
    default = parameters[name].default if name in parameters else None
    return value in (None, "") and default in (None, "")


def find_parameters(target: str) -> Parameters:
    """What a class of the library's kind is built with; nothing of another, or where there is no
    such class, which building it tells."""
    try:
        found = find_object(target)
        known = isinstance(found, type) and issubclass(found, Guidance | Solver)
        return inspect.signature(found).parameters if known else {}
    except Exception:  # whatever a module of one's own raises
        return {}


def _settle(setting: str, value: Any, parameter: inspect.Parameter | None) -> Any:
    if isinstance(value, list):
        return [_settle(setting, entry, parameter) for entry in value]
    if _list_types(parameter) == {"bool"} and not isinstance(value, bool):
        raise UserError(f"{setting}={value}: must be true or false")
    if isinstance(value, str) and _is_float(parameter):
        value = YAML_NUMBERS.get(value.lower(), value)
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise UserError(f"{setting}={value}: must be a number")
        return "inf" if value > 0 else "-inf"
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and _is_float(parameter) else value


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return [_restore(entry) for entry in value]
    return INFINITE.get(value, value) if isinstance(value, str) else value


def _is_float(parameter: inspect.Parameter | None) -> bool:
    """Not where whole numbers are others."""
    types = _list_types(parameter)
    return "float" in types and "int" not in types


def _list_types(parameter: inspect.Parameter | None) -> set[str]:
    """The words of its annotation, be it a text or a type."""
    if parameter is None or parameter.name in NOT_BUILT_WITH:
        return set()
    return set(re.findall(r"\w+", inspect.formatannotation(parameter.annotation)))
