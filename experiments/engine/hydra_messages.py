"""Errors of Hydra and OmegaConf in one line: of their many, what was asked and what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf import Container, DictConfig, Node
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from asyndm.command import spell_commands
from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation import messages
from evaluation.compose import explain_unreadable, list_settings
from evaluation.messages import did_you_mean


def describe(error: BaseException) -> str:
    """As `evaluation.messages.describe`, and those of Hydra and OmegaConf as well."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, InterpolationResolutionError):
        line = explain_unset(error)
    elif isinstance(error, OverrideParseException):
        line = explain_unreadable(error.override, text)
    elif isinstance(error, ValueError) and text.startswith("Config group override must be"):
        line = "null is no choice of a group; name one, as in guidance=none, mask=none, metric=none"
    elif isinstance(error, HydraException):
        line = _explain_composition(error, text)
    else:
        return messages.describe(error)
    return printable(spell_commands(line))


def _explain_composition(error: HydraException, text: str) -> str:
    """What Hydra says of a choice or setting, in one line."""
    cause = error.__cause__
    if isinstance(cause, InterpolationResolutionError):
        return explain_unset(cause)
    if isinstance(cause, GrammarParseError):
        key, _, value = text.splitlines()[0].removeprefix("Error merging override ").partition("=")
        return explain_unreadable(f"{key}={value}", "a ${ without its }")
    if choice := re.search(r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']+)'", text):
        folders = re.findall(r"path=file://(.+)$", text, re.MULTILINE)
        files = [
            file.relative_to(home).with_suffix("").as_posix()
            for home in (Path(folder, choice[1]) for folder in folders)
            for file in home.rglob("*.yaml")
        ]
        listed = [] if "/" in choice[2] else re.findall(r"^\t(?!schema$)(\w+)$", text, re.MULTILINE)
        options = sorted({*files, *listed})
        meant = did_you_mean(choice[2], options)
        return f"{choice[1]}={choice[2]}: no such choice{meant}; choose from {', '.join(options)}"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        known = (name for name, _ in _find_settings(cause))
        meant = did_you_mean(unknown[1], known)
        return f"{unknown[1]}: no such setting{meant}; see --cfg job for those there are"
    if found := re.match(
        r"In '(\S+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", text
    ):
        return f"{found[1]}.yaml: {found[3]}: {found[2]}"
    first = text.splitlines()[0].removeprefix("Error merging override ")
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return (
            f"{found[1]}={found[2]}: to sweep, add -m; "
            f"for one text, quote it: '{found[1]}=\"{found[2]}\"'"
        )
    reason = str(cause or "").strip().splitlines()
    if reason and "is not a ListConfig" in reason[0]:
        return f"{first}: give a list, as in [a,b]"
    return f"{first}: {reason[0]}" if reason and reason[0] not in first else first


def explain_unset(error: OmegaConfBaseException) -> str:
    """That ``${...}`` in a setting has no value: its resolver says why, another choice has it, or
    else it is meant as text."""
    reason, key = str(error).strip().splitlines()[0], str(error.full_key)
    _, ours, why = reason.partition(f"{UserError.__name__} raised while resolving interpolation: ")
    if ours:
        return why
    found = re.search(r"Interpolation key '([^']+)' not found", reason)
    wanted = found[1] if found else ""
    known = {name: node._value() for name, node in _find_settings(error)}
    group, dot, _ = key.partition(".")
    if dot and wanted.partition(".")[0] in known:
        return f"{key}: {reason}; choose another {group}, or what it goes with"
    raw = {name: value for name, value in known.items() if isinstance(value, str) and "${" in value}
    key = next((name for name, value in raw.items() if f"${{{wanted}}}" in value), key)
    text = raw.get(key, "${...}").replace("${", "\\${")
    return f"{key}: {reason}; if a text with ${{ is meant, give '{key}={text}'"


def _find_settings(error: BaseException | None) -> Iterator[tuple[str, Node]]:
    """The settings of the config that an error of OmegaConf is about."""
    node = getattr(error, "parent_node", None)
    root = node._get_root() if isinstance(node, Container) else None
    if isinstance(root, DictConfig):
        yield from list_settings(root)
