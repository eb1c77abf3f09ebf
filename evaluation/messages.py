"""Errors in one line, and how much is said beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher

from asyndm.command import spell_commands
from asyndm.errors import read_first_line
from asyndm.terminal import printable

QUIET = "ASYNDM_QUIET"
"""Environment variable of those who want to see no progress."""
ALIKE, NEARLY, WORDS = 0.6, 0.1, 0.8
"""How much of a name must be right for another one to be meant, how much less for a second one, and
what counts as much as its first or last words alone."""
HUB = ("file_download", "hf_api", "utils._http")
"""Modules of huggingface_hub that log failed requests."""


def count_things(number: int, thing: str) -> str:
    """ "1 image", "2,000 images".

    Args:
        thing: one of them, whose plural ends in -s.
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def name_first(things: Sequence[object]) -> str:
    """The first of them, and how many more there are: "a.png and 2 more"."""
    return f"{things[0]} and {len(things) - 1} more" if len(things) > 1 else str(things[0])


def is_quiet() -> bool:
    """Whether progress is not to be shown."""
    return bool(os.environ.get(QUIET))


@contextmanager
def hush_hub() -> Iterator[None]:
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
    """An error in one line: its first. Commands are named as their user types them, and what steers
    a terminal is spelled out."""
    if isinstance(error, OSError) and error.filename:
        return printable(spell_commands(f"{error.filename}: {error.strerror}"))
    return printable(spell_commands(read_first_line(error)))


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
        likeness = {name: _measure_likeness(wrong, name) for name in names}
    else:
        likeness = {
            name: _measure_likeness(last, name.rpartition(".")[2]) for name in siblings or names
        }
    best = max(likeness.values(), default=0.0)
    if siblings and best < ALIKE:
        return did_you_mean(last, names)
    meant = [name for name, value in likeness.items() if value >= max(ALIKE, best - NEARLY)]
    meant.sort(key=lambda name: name.count("."))
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def _measure_likeness(wrong: str, name: str) -> float:
    """How much of a name is right, from 0 to 1."""
    wrong, name = wrong.lstrip("-"), name.lstrip("-")  # of options
    ratio = SequenceMatcher(None, wrong, name).ratio()
    words = name.startswith(f"{wrong}_") or name.endswith(f"_{wrong}")
    return max(ratio, WORDS) if words else ratio
