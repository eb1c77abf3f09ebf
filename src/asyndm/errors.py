"""The one error a user is meant to read."""


class UserError(ValueError):
    """Bad input, in one line that names the setting and the remedy; raised before any expensive work."""
