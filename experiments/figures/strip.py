"""One picture over its steps: how noisy each place was, whose it was, and the picture the network
then predicted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from asyndm.errors import UserError
from evaluation.labels import read_labels
from evaluation.runs.folder import Run
from evaluation.runs.images import open_image
from evaluation.runs.rows import ImageRow
from evaluation.runs.traces import (
    PREVIEWS,
    SUBJECTS,
    TRACES,
    UNREADABLE,
    WHOLE,
    Trace,
    read_previews,
    read_trace,
)
from experiments.figures.style import (
    FAINT,
    INK,
    SIZE,
    WIDTH,
    Sheet,
    apply_style,
    measure_text,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, GAP, MARGIN = 0.7, 0.03, 0.06
LEAST = 2.7
"""The least width of a strip in inches, for its legend."""
SIDE, FINAL = 0.415, 1.0
"""Of a small picture and of the final one, in inches."""
LINE, SWATCH, BETWEEN = 0.14, 0.15, 0.16
"""Height of a line of words, where a colour's name begins behind it, and the gap to the next, in
inches."""
LegendEntry = tuple[tuple[int, ...] | None, str]
"""A colour and what it stands for; words without a colour."""
LABELS = ("timestep", "mask", "predicted")
REMEDY = (
    "ask for such runs: "
    "traces are kept of every picture sampled now, previews of the first `pictures`"
)


def find_trace_file(run: Run, image: ImageRow) -> Path:
    """Where the trace of a picture lies, if there is one."""
    return run.folder / TRACES / f"{Path(image.file).stem}.png"


def find_previews_file(run: Run, image: ImageRow) -> Path:
    """Where the predicted pictures of a picture lie, if there are any."""
    return run.folder / PREVIEWS / f"{Path(image.file).stem}.png"


def choose_picture(runs: Iterable[Run]) -> tuple[Run, ImageRow]:
    """The picture to show: of AsynDM's runs in their order, the first of several subjects, or else
    the first at all.

    Raises:
        UserError: no run of AsynDM has a picture with trace and previews.
    """
    first = None
    for run in runs:
        if read_labels(run)["method"].follows_attention:
            for image in run.images:
                if find_previews_file(run, image).exists() and find_trace_file(run, image).exists():
                    if len(image.subjects) > 1:
                        return run, image
                    first = first or (run, image)
    if first is None:
        raise UserError(f"no run of AsynDM with traces and previews; {REMEDY}")
    return first


def draw_figure(run: Run, image: ImageRow) -> Figure:
    """Columns are steps, rows the timestep map, the masks and the predicted picture; at the right
    the final one.

    Raises:
        UserError: a trace, a preview or the picture cannot be read.
    """
    way = read_trace(find_trace_file(run, image))
    frames = read_previews(find_previews_file(run, image), len(way.steps))
    final = open_picture(run, image)
    top, step = 0.5, SIDE + GAP
    bar = top + FINAL + 0.12
    below = max(top + 3 * step + 0.06, bar + 0.2 + 2 * LINE)
    right = LEFT + len(way.steps) * step + 0.1
    with apply_style():
        title = shorten(f"“{image.prompt}”", WIDTH - 2 * MARGIN, SIZE + 1, "bold")
        needed = max(right + FINAL, MARGIN + measure_text(title, SIZE + 1, "bold")) + MARGIN
        width = min(WIDTH, max(LEAST, needed))
        named = make_legend(image.subjects, way, width - LEFT - MARGIN)
        sheet = Sheet.of(width, below + len(named) * LINE + MARGIN)
        sheet.text(title, MARGIN, 0.05, SIZE + 1, weight="bold")
        sheet.text("step", MARGIN, top - 0.18, color=FAINT)
        for column, number in enumerate(way.steps):
            centre = LEFT + column * step + SIDE / 2
            sheet.text(str(number), centre, top - 0.18, color=FAINT, ha="center")
        for row, (label, cells) in enumerate(
            zip(LABELS, (way.maps, way.masks, frames), strict=True)
        ):
            y = top + row * step
            sheet.text(label, MARGIN, y + SIDE / 2 - 0.06)
            for column, cell in enumerate(cells):
                sheet.picture(cell, LEFT + column * step, y, SIDE)
        sheet.text("picture", right, top - 0.18, color=FAINT)
        sheet.picture(final, right, top, FINAL)
        sheet.colourbar(right, bar, FINAL)
        sheet.text("0\nclean", right, bar + 0.13)
        sheet.text("1000\nnoise", right + FINAL, bar + 0.13, ha="right", multialignment="right")
        for number, line in enumerate(named):
            x = LEFT
            for colour, name in line:
                y = below + number * LINE
                x = (
                    draw_swatch(sheet, colour, name, x, y)
                    if colour
                    else sheet.text(name, x, y, color=FAINT)
                )
    return sheet.figure


def make_legend(subjects: Iterable[str], way: Trace, width: float) -> list[list[LegendEntry]]:
    """What the masks' colours mean, in lines of so many inches: the subjects, and where masks have
    it the whole picture, and mixed colours where several overlap; said where subjects share a
    colour."""
    colours = [tuple(map(int, colour)) for colour in SUBJECTS]
    entries: list[LegendEntry] = [
        (colours[i % len(colours)], name) for i, name in enumerate(subjects)
    ]
    repeated = len(entries) > len(colours)
    counted = [mask.getcolors(mask.width * mask.height) or [] for mask in way.masks]
    whole, seen = (
        tuple(map(int, WHOLE)),
        {colour for colours_of in counted for _, colour in colours_of},
    )
    entries += [(whole, "all of it")] if whole in seen else []
    entries += [(None, "mixed: overlap")] if seen - {*colours, (0, 0, 0), whole} else []
    entries += [(None, f"colours repeat after {len(colours)} subjects")] if repeated else []
    lines: list[list[LegendEntry]] = [[]]
    left = width
    for colour, name in entries:
        said = shorten(name, width - SWATCH)
        needed = (colour is not None) * SWATCH + measure_text(said) + BETWEEN
        if lines[-1] and needed - BETWEEN > left:
            lines.append([])
            left = width
        lines[-1].append((colour, said))
        left -= needed
    return lines


def draw_swatch(sheet: Sheet, colour: tuple[int, ...], name: str, x: float, y: float) -> float:
    """A square of the colour and a name. Returns where the next may begin."""
    sheet.picture(Image.new("RGB", (1, 1), colour), x, y + 0.01, 0.1, INK, 0.4)
    return sheet.text(name, x + SWATCH, y) + BETWEEN


def open_picture(run: Run, image: ImageRow) -> Image.Image:
    """The final picture.

    Raises:
        UserError: it cannot be read.
    """
    path = run.folder / image.file
    try:
        return open_image(path)
    except (*UNREADABLE, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: not a picture; ask for the run again") from error
