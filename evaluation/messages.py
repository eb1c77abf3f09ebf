"""Errors in one line, and how much is said beside them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf import Container, DictConfig, Node
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from asyndm.command import as_typed
from asyndm.terminal import printable

QUIET = "ASYNDM_QUIET"
"""Environment variable of those who want to see no progress."""
ALIKE, NEARLY, WORDS = 0.6, 0.1, 0.8
"""How much of a name must be right for another one to be meant, how much less for a second one, and
what counts as much as its first or last words alone."""


HUB = ("file_download", "hf_api", "utils._http")
"""Modules of huggingface_hub that log failed requests."""


def counted(number: int, thing: str) -> str:
    """ "1 image", "2,000 images".

    Args:
        thing: one of them, whose plural ends in -s.
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def is_quiet() -> bool:
    """Whether progress is not to be shown."""
    return bool(os.environ.get(QUIET))


@contextmanager
def hushed_hub() -> Iterator[None]:
    """What the hub's client logs of a request that fails is left out: the error that ends it is
    told."""
    loggers = [logging.getLogger(f"huggingface_hub.{name}") for name in HUB]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def describe(error: BaseException) -> str:
    """An error in one line; of Hydra's and OmegaConf's many lines, what was asked and what there
    is. Commands are named as their user types them, and what steers a terminal is spelled out."""
    return printable(as_typed(_describe(error)))


def _describe(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InterpolationResolutionError):
        return stands_for_nothing(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    return _composing(error, text) if isinstance(error, HydraException) else text.splitlines()[0]


def _composing(error: HydraException, text: str) -> str:
    """What Hydra says of a choice or setting, in one line."""
    cause = error.__cause__
    if isinstance(cause, InterpolationResolutionError):
        return stands_for_nothing(cause)
    if isinstance(cause, GrammarParseError):
        key, _, value = text.splitlines()[0].removeprefix("Error merging override ").partition("=")
        return _unreadable(f"{key}={value}", "a ${ without its }")
    if choice := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        folders = re.findall(r"path=file://(.+)$", text, re.MULTILINE)
        files = [file.stem for folder in folders for file in Path(folder, choice[1]).glob("*.yaml")]
        options = sorted({*files, *re.findall(r"^\t(?!schema$)(\w+)$", text, re.MULTILINE)})
        meant = did_you_mean(choice[2], options)
        return f"{choice[1]}={choice[2]}: no such choice{meant}; choose from {', '.join(options)}"
    if key := re.search(r"Could not override '([^']+)'", text):
        known = (name for name, _ in _settings_of(cause))
        meant = did_you_mean(key[1], known)
        return f"{key[1]}: no such setting{meant}; see --cfg job for those there are"
    if found := re.match(
        r"In '(\S+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", text
    ):
        return f"{found[1]}.yaml: {found[3]}: {found[2]}"
    first = text.splitlines()[0].removeprefix("Error merging override ")
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return (
            f"{found[1]}={found[2]}: to sweep, add -m; for one text, quote it: "
            f"'{found[1]}=\"{found[2]}\"'"
        )
    reason = str(cause or "").strip().splitlines()
    if reason and "is not a ListConfig" in reason[0]:
        return f"{first}: give a list, as in [a,b]"
    return f"{first}: {reason[0]}" if reason and reason[0] not in first else first


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" with what looks most like it, or nothing.

    Args:
        wrong: a choice, or a setting with dots: then its neighbours are looked at, or all if none
            of them is like it.
        known: what there is.
    """
    parent, _, last = wrong.rpartition(".")
    names = list(known)
    siblings = [name for name in names if parent and name.rpartition(".")[0] == parent]
    if parent and not siblings:
        likeness = {name: _alike(wrong, name) for name in names}
    else:
        likeness = {name: _alike(last, name.rpartition(".")[2]) for name in siblings or names}
    best = max(likeness.values(), default=0.0)
    if siblings and best < ALIKE:
        return did_you_mean(last, names)
    meant = [name for name, value in likeness.items() if value >= max(ALIKE, best - NEARLY)]
    meant.sort(key=lambda name: name.count("."))
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def _alike(wrong: str, name: str) -> float:
    """How much of a name is right, from 0 to 1."""
    wrong, name = wrong.lstrip("-"), name.lstrip("-")  # of options
    ratio = SequenceMatcher(None, wrong, name).ratio()
    words = name.startswith(f"{wrong}_") or name.endswith(f"_{wrong}")
    return max(ratio, WORDS) if words else ratio


def stands_for_nothing(error: OmegaConfBaseException) -> str:
    """That ``${...}`` in a setting has no value: another choice has it, or else it is meant as
    text."""
    reason, key = str(error).strip().splitlines()[0], str(error.full_key)
    found = re.search(r"Interpolation key '([^']+)' not found", reason)
    wanted = found[1] if found else ""
    known = {name: node._value() for name, node in _settings_of(error)}
    group, dot, _ = key.partition(".")
    if dot and wanted.partition(".")[0] in known:
        return f"{key}: {reason}; choose another {group}, or what it goes with"
    raw = {name: value for name, value in known.items() if isinstance(value, str) and "${" in value}
    key = next((name for name, value in raw.items() if f"${{{wanted}}}" in value), key)
    text = raw.get(key, "${...}").replace("${", "\\${")
    return f"{key}: {reason}; if a text with ${{ is meant, give '{key}={text}'"


def _settings_of(error: BaseException | None) -> Iterator[tuple[str, Node]]:
    """The settings of the config that an error of OmegaConf is about."""
    node = getattr(error, "parent_node", None)
    root = node._get_root() if isinstance(node, Container) else None
    if isinstance(root, DictConfig):
        yield from _settings(root)


def _settings(config: DictConfig, before: str = "") -> Iterator[tuple[str, Node]]:
    """The keys of a config with dots, at every depth, and what they are set to; Hydra's own are
    left out."""
    if config._is_none() or config._is_missing() or config._is_interpolation():
        return
    for key in config:
        node = config._get_node(key)
        if isinstance(node, Node) and (before or key != "hydra"):
            yield f"{before}{key}", node
            if isinstance(node, DictConfig):
                yield from _settings(node, f"{before}{key}.")


def _unreadable(override: str, text: str) -> str:
    """What is wrong with a setting that Hydra's grammar does not read."""
    key, equal, value = override.partition("=")
    if not equal:
        return f"{override}: no setting; give NAME=VALUE"
    quoted = value.strip("'\"").replace('"', '\\"').replace("${", "\\${")
    return (
        f"{override}: cannot be read ({text.splitlines()[0]}); if it is a text, quote it: "
        f"'{key}=\"{quoted}\"'"
    )
