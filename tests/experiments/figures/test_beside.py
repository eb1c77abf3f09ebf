"""One prompt and seed under every method: which runs, in what order, with which masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.colours import RIGHT, WRONG
from evaluation.runs.folder import Run
from evaluation.runs.traces import read_trace
from experiments.figures.beside import choose_runs, draw_figure
from experiments.figures.strip import find_trace_file
from tests.experiments.figures.shared import list_texts
from tests.written_runs import ASYNDM, CONCAVE, DM, STATIC, Made, make_method, write_pictures

GROWN = make_method("StaticMask", "Quadratic", threshold=1.0, grow=2)


def write(root: Path, **changes: Any) -> list[Run]:
    """A run of two prompts under each of five methods, not in their order."""
    pictures = [Made("a dog", scores={"exact": 1.0}), Made("two dog", "two", scores={"exact": 0.0})]
    # As a copy: of `DM` itself no trace is written.
    methods = {"grown": GROWN, "static": STATIC, "asyn": ASYNDM, "concave": CONCAVE, "dm": dict(DM)}
    return [
        write_pictures(root / name, method, pictures, **changes) for name, method in methods.items()
    ]


def test_every_method_has_a_column_in_the_order_of_tables(tmp_path: Path) -> None:
    runs = write(tmp_path / "a")
    others = write(tmp_path / "b", num_inference_steps=20)[:4]
    chosen = choose_runs([*others, *runs])
    assert [run.folder.name for run in chosen] == ["dm", "concave", "asyn", "static", "grown"]
    assert {run.folder.parent.name for run in chosen} == {"a"}
    assert choose_runs([*runs, *runs]) == chosen

    figure = draw_figure(runs, 2)
    said = list_texts(figure)
    assert [word for word in said if word in ("DM", "AsynDM_static", "grow = 2")] == [
        "DM",
        *["AsynDM_static"] * 2,
        "grow = 2",
    ]
    assert [word[2:] for word in said if word[0] in "✓✗"] == ["right"] * 5 + ["wrong"] * 5
    frames = [
        to_hex(axes.spines["left"].get_edgecolor())
        for axes in figure.axes
        if axes.spines["left"].get_visible() and axes.spines["left"].get_linewidth() > 2
    ]
    assert frames == [RIGHT] * 5 + [WRONG] * 5
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    image = runs[2].images[0]
    way = read_trace(find_trace_file(runs[2], image))
    with Image.open(runs[2].folder / image.file) as picture:
        for wanted in (picture.convert("RGB"), way.masks[1]):
            assert any(np.array_equal(one, np.asarray(wanted)) for one in shown)


def test_three_methods_are_too_few_and_other_seeds_none_of_theirs(tmp_path: Path) -> None:
    runs = write(tmp_path)
    with pytest.raises(UserError, match="there are 3 methods of the same prompts .* 4 to 9 fit"):
        choose_runs(runs[:3])
    other = write(tmp_path / "seeds", seed=1)
    with pytest.raises(UserError, match="there are 3"):
        choose_runs([*runs[:3], *other[3:]])
