"""The one error a user is meant to read, and the check most settings share."""


class UserError(ValueError):
    """Bad input, in one line that names the setting and the remedy; raised before any expensive work."""


def check_fraction(value: object, setting: str) -> None:
    """Refuse a value that is not a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"{setting} must be a number in [0, 1], got {value!r}")
