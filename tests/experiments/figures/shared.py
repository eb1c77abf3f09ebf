"""What tests of figures share: runs to draw, and what is on a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from PIL import Image

from evaluation.runs.folder import Run, find_runs, read_run
from evaluation.runs.traces import encode_previews, encode_trace, make_trace
from evaluation.tables import TableRow, make_table
from tests.written_runs import ASYNDM, DM, Made, make_method, write_pictures, write_run

OUTCOMES: dict[str, list[float | None]] = {"a": [1, 0, 1, 0], "b": [1, 1, 1, 0], "c": [0, 1, 0, 0]}
"""Which of four pictures are right."""


def make_asyndm(concavity: float = 0.5, threshold: float = 1.0) -> dict[str, Any]:
    """Its mask and curve with these settings."""
    return make_method("DynamicMask", "Quadratic", concavity, threshold=threshold)


def tabulate(folder: Path) -> list[TableRow]:
    """The table of all runs there."""
    return make_table(read_run(found) for found in find_runs([folder]))


def list_texts(figure: Figure) -> list[str]:
    """All words on it."""
    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def measure_texts(figure: Figure) -> list[tuple[str, BboxBase]]:
    """All words on it, and where they stand, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text().strip()
    ]


def list_lines(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of each line of a panel, by its label."""
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in figure.axes[panel].get_lines()
    }


def write_sweep(folder: Path) -> list[TableRow]:
    """The table of DM and of AsynDM with three concavities."""
    write_run(folder, "dm", OUTCOMES["a"], DM)
    for name, concavity in zip("abc", (0.3, 0.5, 0.8), strict=True):
        write_run(folder, f"asyn{name}", OUTCOMES[name], make_asyndm(concavity))
    return tabulate(folder)


def write_previews(folder: Path, prompt: str, steps: int = 3) -> Run:
    """A run of AsynDM with one picture, its trace over so many steps and its predicted pictures."""
    run = write_pictures(folder, ASYNDM, [Made(prompt)])
    levels = np.linspace(1000, 0, steps)[:, None, None] * np.ones((steps, 4, 4))
    way = make_trace(list(range(1, steps + 1)), levels, np.ones((steps, 1, 4, 4)))
    (folder / "traces" / "p0_0.png").write_bytes(encode_trace(way))
    (folder / "previews").mkdir()
    previews = [Image.new("RGB", (16, 16))] * steps
    (folder / "previews" / "p0_0.png").write_bytes(encode_previews(previews))
    return run
