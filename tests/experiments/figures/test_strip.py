"""A picture over its steps: no text breaks it, and none lies over another."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation.runs.folder import find_runs, read_run
from evaluation.runs.traces import read_previews, read_trace
from experiments.figures import strip, style
from tests.experiments.figures.shared import list_texts, measure_texts, write_previews
from tests.lab import Lab


@pytest.mark.fault(
    what="a prompt with control characters or marks that reorder a line",
    kind="texts of files that break a figure",
    now="they are spelled out in every figure, whose SVG stays XML",
)
def test_no_text_breaks_a_figure(tmp_path: Path) -> None:
    run = write_previews(tmp_path / "a", "a \x1b[31mred\x1b]0;HACK\x07 dog \u202e\uffff")
    (image,) = run.images
    figure = strip.draw_figure(run, replace(image, subjects=("a \x9b1mcat",)))
    figure.suptitle("\x1b as lines and cost have it")
    style.save(figure, tmp_path / "strip")
    ElementTree.parse(tmp_path / "strip.svg")
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\uffff"} & set(
        (tmp_path / "strip.svg").read_text()
    )
    said = list_texts(figure)
    assert r"“a \x1b[31mred\x1b]0;HACK\x07 dog \u202e\uffff”" in said and r"a \x9b1mcat" in said


def test_a_strip_of_one_step_is_as_wide_as_it_must_be_and_says_that_colours_repeat(
    tmp_path: Path,
) -> None:
    run = write_previews(tmp_path / "a", "a dog", steps=1)
    image = replace(run.images[0], subjects=tuple(f"dog {i}" for i in range(6)))
    figure = strip.draw_figure(run, image)
    assert figure.get_figwidth() < 3 and "colours repeat after 5 subjects" in list_texts(figure)
    height = dict(measure_texts(figure))
    assert height["0\nclean"].y0 - height["dog 0"].y1 > 0.05 * figure.dpi


@pytest.mark.fault(
    what="a picture of few steps and many subjects, with $ in its prompt",
    kind="text over text",
    now="the strip's legend stands below all else, in as many lines as it takes, and $ is no "
    "formula",
)
@pytest.mark.parametrize(
    "subjects", [("dog",), tuple(f"a dog called ${{number {i}}}" for i in range(9))]
)
def test_no_words_of_the_strip_lie_over_others(tmp_path: Path, subjects: tuple[str, ...]) -> None:
    run = write_previews(tmp_path / "a", r"a dog $\frac{1} for $5")
    (image,) = run.images
    figure = strip.draw_figure(run, replace(image, subjects=subjects))
    style.save(figure, tmp_path / "strip")
    boxes = measure_texts(figure)
    assert {text for text, _ in boxes} >= {*subjects, "0\nclean", "1000\nnoise"}
    assert all(
        figure.bbox.padded(1).contains(*corner) for _, box in boxes for corner in (box.min, box.max)
    )
    over = [
        (a, b)
        for (a, one), (b, two) in itertools.combinations(boxes, 2)
        if one.padded(-1).overlaps(two)
    ]
    assert not over


def test_a_picture_of_a_real_run_over_its_steps(sampled: Lab) -> None:
    runs = [read_run(folder) for folder in find_runs([sampled.runs])]
    run, image = strip.choose_picture(runs)
    asyn = next(run for run in runs if run.identity["mask"]["_target_"].endswith("DynamicMask"))
    assert run.folder == asyn.folder and image == asyn.images[0]
    way = read_trace(strip.find_trace_file(run, image))
    figure = strip.draw_figure(run, image)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    frames_of = read_previews(strip.find_previews_file(run, image), len(way.steps))
    expected = [np.asarray(cell) for cell in (*way.maps, *way.masks, *frames_of)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=False))
    assert {"1", "2", "dog", "cat"} <= set(list_texts(figure))
