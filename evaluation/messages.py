"""Errors in one line."""

from __future__ import annotations

import re

from hydra.errors import HydraException, OverrideParseException


def describe(error: BaseException) -> str:
    """An error in one line; of Hydra's and OmegaConf's many lines, what was asked and what there is."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return f"{error.override}: cannot be read; if it is a text, quote it: '{key}=\"{value}\"'"
    if not isinstance(error, HydraException):
        return text.splitlines()[0]
    if choice := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        options = re.findall(r"^\t(?!schema$)(\w+)$", text, re.MULTILINE)
        return f"{choice[1]}={choice[2]}: no such choice; choose from {', '.join(options)}"
    if key := re.search(r"Could not override '([^']+)'", text):
        return f"{key[1]}: no such setting; see --cfg job for those there are"
    first = text.splitlines()[0].removeprefix("Error merging override ")
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return f"{found[1]}={found[2]}: to sweep, add -m; for one text, quote it: '{found[1]}=\"{found[2]}\"'"
    cause = str(error.__cause__ or "").strip().splitlines()
    if cause and "is not a ListConfig" in cause[0]:
        return f"{first}: give a list, as in [a,b]"
    return f"{first}: {cause[0]}" if cause and cause[0] not in first else first
