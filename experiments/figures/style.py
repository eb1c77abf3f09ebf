"""How all figures look: white, light grids, colours that the colour-blind tell apart, and never a
colour alone."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyndm.terminal import printable
from evaluation.labels import METHODS
from evaluation.runs.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from evaluation.runs.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

Dashes = str | tuple[int, tuple[float, ...]]

WIDTH = 5.5
"""Of a figure in inches: a paper's text block. No text is smaller than `SIZE` points there."""
SIZE = 8.0
LONGEST = 250
"""Letters of which a line is measured: no figure has room for more."""
PNG_DPI, SVG_PICTURE_DPI = 160, 320
INK, FAINT = "#222222", "#5a5a5a"
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": SIZE,
    "axes.titlesize": SIZE + 0.5,
    "axes.labelsize": SIZE + 0.5,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 0,
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "asyndm",
    "text.parse_math": False,  # a prompt with $ is no formula
}
DARK = {
    "#ffffff": "#14171a",
    INK: "#e4e6e8",
    BLACK: "#e4e6e8",
    FAINT: "#9aa3ab",
    "#e6e6e6": "#31373d",
}
"""What an SVG's colours become for a reader who prefers dark pages; those of lines and pictures
stay."""


@dataclass(frozen=True)
class Look:
    """A line of a figure: colour, marker and dashes are never shared by two."""

    colour: str
    marker: str
    dashes: Dashes


SYNCHRONOUS = Look(BLACK, "o", (0, (4, 1.6)))
ASYNCHRONOUS = Look(BLUE, "D", "-")
LOOKS = dict(
    zip(
        METHODS,
        (
            SYNCHRONOUS,
            Look(VERMILLION, "s", (0, (6, 1.4, 1.2, 1.4))),
            ASYNCHRONOUS,
            Look(GREEN, "^", (0, (1.2, 1.2))),
            Look(PURPLE, "v", (0, (3, 1, 1, 1, 1, 1))),
        ),
        strict=False,
    )
)
"""By the labels of the library's methods: a palette, so that each looks the same in all figures."""
REST = (
    Look(SKY, "P", (0, (8, 2))),
    Look(ORANGE, "X", (0, (2, 2))),
    Look(GREEN, "*", (0, (5, 1, 1, 1, 1, 1))),
    Look(PURPLE, "<", (0, (8, 1, 2, 1))),
    Look(VERMILLION, ">", (0, (1, 2.5))),
)
"""For names that are no method's, in turn."""


def assign_looks(names: Iterable[str]) -> dict[str, Look]:
    """How each of these lines is drawn: a method as in every figure, others in the order they
    come."""
    others = [name for name in dict.fromkeys(names) if name not in LOOKS]
    return LOOKS | {name: REST[i % len(REST)] for i, name in enumerate(others)}


def apply_style() -> AbstractContextManager[None]:
    """The settings of matplotlib that hold while a figure is drawn or saved, and no longer."""
    from matplotlib import rc_context

    return rc_context(RC)


@dataclass(frozen=True)
class Sheet:
    """A page of pictures and words, measured in inches from its upper left corner; to use within
    `apply_style`."""

    figure: Figure

    @classmethod
    def of(cls, width: float, height: float) -> Sheet:
        from matplotlib.figure import Figure

        return cls(Figure(figsize=(width, height)))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Without ticks or frame."""
        w, h = self.figure.get_size_inches()
        axes = self.figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        return axes

    def picture(
        self,
        image: Image.Image,
        x: float,
        y: float,
        side: float,
        frame: str | None = None,
        line: float = 2.2,
    ) -> Axes:
        """A picture within a square, its pixels sharp where they are enlarged, with a frame of this
        colour."""
        axes = self.axes(x, y, side, side)
        enlarged = max(image.size) <= side * PNG_DPI
        axes.imshow(image, interpolation="nearest" if enlarged else "antialiased")
        if frame:
            axes.spines[:].set(visible=True, color=frame, linewidth=line)
        return axes

    def colourbar(self, x: float, y: float, width: float, height: float = 0.1) -> Axes:
        """The timesteps' colours, from clean on the left to noise on the right."""
        axes = self.axes(x, y, width, height)
        axes.imshow(make_colourbar(), aspect="auto", extent=(0, 1000, 0, 1))
        return axes

    def text(self, text: str, x: float, y: float, size: float = SIZE, **more: Any) -> float:
        """Words whose upper left corner is there. Returns where they end, in inches."""
        w, h = self.figure.get_size_inches()
        self.figure.text(x / w, 1 - y / h, printable(text), size=size, va="top", **more)
        return x + measure_text(text, size, more.get("weight", "normal"))


def make_colourbar() -> Image.Image:
    """The colours of `evaluation.runs.traces` for timesteps 0 to 1000, 256 of them in a row."""
    import numpy as np

    from evaluation.runs.traces import draw_levels

    return draw_levels(np.linspace(0, 1000, 256)[None])


def measure_text(text: str, size: float = SIZE, weight: str = "normal") -> float:
    """Of one line as it is drawn, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    text = printable(text)
    font = FontProperties(family=RC["font.family"], weight=weight)
    return (
        float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1) / 72
        if text.strip()
        else 0.0
    )


def shorten(text: str, width: float, size: float = SIZE, weight: str = "normal") -> str:
    """One line no wider than so many inches, with dots where words, or letters of the first one,
    are left out."""

    def wide(line: str) -> bool:
        return measure_text(line, size, weight) > width

    words = printable(text[:LONGEST]).split()
    if len(text) <= LONGEST and not wide(" ".join(words)):
        return " ".join(words).rstrip(";,")
    first = next(iter(words), "")
    count = bisect_right(
        range(1, len(words)), False, key=lambda n: wide(" ".join(words[:n]) + " …")
    )
    if count:
        return " ".join(words[:count]).rstrip(";,") + " …"
    return (
        first[: bisect_right(range(1, len(first)), False, key=lambda n: wide(first[:n] + "…"))]
        + "…"
    )


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes ``path.png`` and ``path.svg``; the same figure gives the same bytes, and no text of it
    breaks them.

    Args:
        figure: drawn within `apply_style`.
        path: without suffix.

    Returns:
        the two files.
    """
    spell_out(figure)
    files = []
    for suffix, dpi, metadata in (("png", PNG_DPI, {}), ("svg", SVG_PICTURE_DPI, {"Date": None})):
        buffer = io.BytesIO()
        with apply_style():
            figure.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata)
        files.append(path.with_name(f"{path.name}.{suffix}"))
        content = buffer.getvalue()
        write_bytes(files[-1], adapt_to_dark(content) if suffix == "svg" else content)
    return files


def spell_out(figure: Figure) -> None:
    """Makes every text of a figure fit for XML, whatever data it comes from."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and printable(text.get_text()) != text.get_text():
            text.set_text(printable(text.get_text()))


def adapt_to_dark(svg: bytes) -> bytes:
    """The SVG with colours for dark pages as well, of which the reader's browser chooses."""
    rules = [
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    # What has no fill is black.
    rules.append(f":is(use, g > path)[style]:not([style*='fill:']) {{ fill: {DARK[BLACK]} }}")
    media = "\n".join(["@media (prefers-color-scheme: dark) {", *rules, "}"])
    return svg.replace(b"</style>", f"\n{media}\n</style>".encode(), 1)
