"""Counts in words."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """ "1 image", "2,000 images".

    Args:
        thing: one of them, whose plural ends in -s.
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
