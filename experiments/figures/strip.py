"""One picture over its steps: how noisy each place was, whose it was, and the picture the network then predicted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from asyndm.errors import UserError
from evaluation.results import ImageRow, Run
from evaluation.tables import labels
from evaluation.traces import PREVIEWS, SUBJECTS, TRACES, WHOLE, Trace, read_previews, read_trace
from experiments.figures.style import FAINT, INK, SIZE, WIDTH, Sheet, shortened, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, GAP, MARGIN = 0.7, 0.03, 0.06
SIDE, FINAL = 0.415, 1.0
"""Of a small picture and of the final one, in inches."""
LABELS = ("timestep", "mask", "predicted")
REMEDY = "ask for such runs: traces are kept of every picture sampled now, previews of the first `pictures`"


def trace_file(run: Run, image: ImageRow) -> Path:
    """Where the trace of a picture lies, if there is one."""
    return run.folder / TRACES / f"{Path(image.file).stem}.png"


def previews_file(run: Run, image: ImageRow) -> Path:
    """Where the predicted pictures of a picture lie, if there are any."""
    return run.folder / PREVIEWS / f"{Path(image.file).stem}.png"


def chosen(runs: Iterable[Run]) -> tuple[Run, ImageRow]:
    """The picture to show: of AsynDM's runs in their order, the first of several subjects, or else the first at all.

    Raises:
        UserError: no run of AsynDM has a picture with trace and previews.
    """
    there = [
        (run, image)
        for run in runs
        if labels(run)["method"] == "AsynDM"
        for image in run.images
        if trace_file(run, image).exists() and previews_file(run, image).exists()
    ]
    if not there:
        raise UserError(f"no run of AsynDM with traces and previews; {REMEDY}")
    return next((pair for pair in there if len(pair[1].subjects) > 1), there[0])


def figure(run: Run, image: ImageRow) -> Figure:
    """Columns are steps, rows the timestep map, the masks and the predicted picture; at the right the final one.

    Raises:
        UserError: a trace, a preview or the picture cannot be read.
    """
    way = read_trace(trace_file(run, image))
    frames = read_previews(previews_file(run, image), len(way.steps))
    final = picture(run, image)
    top, step = 0.5, SIDE + GAP
    with styled():
        sheet = Sheet.of(WIDTH, top + 3 * step + 0.32)
        title = shortened(f"“{image.prompt}”", WIDTH - 2 * MARGIN, SIZE + 1)
        sheet.text(title, MARGIN, 0.05, SIZE + 1, weight="bold")
        sheet.text("step", MARGIN, top - 0.18, color=FAINT)
        for column, number in enumerate(way.steps):
            centre = LEFT + column * step + SIDE / 2
            sheet.text(str(number), centre, top - 0.18, color=FAINT, ha="center")
        for row, (label, cells) in enumerate(zip(LABELS, (way.maps, way.masks, frames), strict=True)):
            y = top + row * step
            sheet.text(label, MARGIN, y + SIDE / 2 - 0.06)
            for column, cell in enumerate(cells):
                sheet.picture(cell, LEFT + column * step, y, SIDE)
        right = LEFT + len(way.steps) * step + 0.1
        sheet.text("picture", right, top - 0.18, color=FAINT)
        sheet.picture(final, right, top, FINAL)
        bar = top + FINAL + 0.12
        sheet.colourbar(right, bar, FINAL)
        sheet.text("0\nclean", right, bar + 0.13)
        sheet.text("1000\nnoise", right + FINAL, bar + 0.13, ha="right", multialignment="right")
        legend(sheet, image.subjects, way, LEFT, top + 3 * step + 0.06)
    return sheet.figure


def legend(sheet: Sheet, subjects: Iterable[str], way: Trace, x: float, y: float) -> None:
    """The subjects by their colours; mixed ones, where several overlap, only if the masks have some."""
    names = list(subjects)
    for colour, name in zip((SUBJECTS[i % len(SUBJECTS)] for i in range(len(names))), names, strict=True):
        x = swatch(sheet, tuple(int(c) for c in colour), name, x, y)
    whole = tuple(map(int, WHOLE))
    if any(whole in set(mask.get_flattened_data()) for mask in way.masks):
        x = swatch(sheet, whole, "all of it", x, y)
    known = {tuple(map(int, colour)) for colour in SUBJECTS} | {(0, 0, 0), whole}
    if any(set(mask.get_flattened_data()) - known for mask in way.masks):
        sheet.text("mixed: overlap", x, y, color=FAINT)


def swatch(sheet: Sheet, colour: tuple[int, ...], name: str, x: float, y: float) -> float:
    """A square of the colour and a name. Returns where the next may begin."""
    sheet.picture(Image.new("RGB", (1, 1), colour), x, y + 0.01, 0.1, INK, 0.4)
    return sheet.text(name, x + 0.15, y) + 0.16


def picture(run: Run, image: ImageRow) -> Image.Image:
    """The final picture.

    Raises:
        UserError: it cannot be read.
    """
    path = run.folder / image.file
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: not a picture; ask for the run again") from error
