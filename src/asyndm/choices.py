"""What curves, masks, solvers and guidances are called."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any


def to_snake_case(name: str) -> str:
    """A class's name as choices and tables have it: "PiecewiseLinear" -> "piecewise_linear"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def list_changes(choice: Any, *names: str) -> str:
    """Which of these settings are not as a choice's class has them: "rho=null momentum=-0.75"."""
    usual = {field.name: field.default for field in fields(choice)}
    changed = {
        name: getattr(choice, name) for name in names if getattr(choice, name) != usual[name]
    }
    return " ".join(f"{name}={_spell(value)}" for name, value in changed.items())


def _spell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str).strip('"')
