"""The one error a user is meant to read, and the check most settings share."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from numbers import Integral, Real
from typing import TypeGuard


class UserError(ValueError):
    """Bad input, in one line that names the setting and the remedy; raised before any expensive
    work."""


def read_first_line(error: BaseException, otherwise: str | None = None) -> str:
    """The first line of what an error says; of one that says nothing, `otherwise` or else its
    type's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__ if otherwise is None else otherwise


def join_lines(error: BaseException) -> str:
    """All that an error says, in one line."""
    return " ".join(str(error).split())


@lru_cache(maxsize=2**16)
def say_once(message: str, about: str = "") -> None:
    """A warning, once for each thing that it is about."""
    # Remembered here, as the memory of `warnings` is lost whenever any library catches some.
    warnings.warn(message, stacklevel=3)


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a real number, of Python or of numpy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is an integer, of Python or of numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_fraction(value: object, setting: str) -> None:
    """Refuse a value that is not a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise UserError(f"{setting} must be a number in [0, 1], got {value!r}")


def check_flag(value: object, setting: str) -> None:
    """Refuse a value that is not True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{setting} must be true or false, got {value!r}")


def check_number(value: object, setting: str, least: float = -math.inf) -> None:
    """Refuse a value that is not a finite number of at least so much."""
    if not is_number(value) or not math.isfinite(value) or value < least:
        bound = f" of at least {least:g}" if math.isfinite(least) else ""
        raise UserError(f"{setting} must be a finite number{bound}, got {value!r}")
