"""What curves, masks and guidances are called."""

from __future__ import annotations

import re


def to_snake_case(name: str) -> str:
    """A class's name as choices and tables have it: "PiecewiseLinear" -> "piecewise_linear"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
