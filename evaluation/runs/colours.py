"""The colours of sheets, figures and pages: told apart by the colour-blind (Okabe and Ito)."""

from __future__ import annotations

BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072b2", "#d55e00", "#009e73"
PURPLE, SKY, ORANGE, YELLOW = "#cc79a7", "#56b4e9", "#e69f00", "#f0e442"
GREY = "#aaaaaa"
RIGHT, WRONG, UNKNOWN = BLUE, VERMILLION, GREY
"""What a picture is said to be, in its frame."""


def choose_frame(right: bool | None) -> str:
    """The colour of a picture's frame; None: nothing is known of it."""
    return UNKNOWN if right is None else RIGHT if right else WRONG


def to_rgb(colour: str) -> tuple[int, int, int]:
    """ "#0072b2" -> (0, 114, 178)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
