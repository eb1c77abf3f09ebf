"""Figures show the numbers of the table, the schedules as they are, and pictures chosen by order
alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from asyndm.curves import Curve, Exponential, Linear, PiecewiseLinear, Quadratic
from asyndm.errors import UserError
from evaluation.labels import labels
from evaluation.runs.folder import Run, find_runs, read_run
from evaluation.runs.rows import ScoreRow
from evaluation.runs.traces import encode, encode_previews, read_previews, read_trace, trace
from evaluation.tables import Row, table
from experiments.engine.cost import evaluations_per_image
from experiments.engine.schema import CONF
from experiments.engine.sweep import planned
from experiments.figures import cost, curves, lines, seeds, strip, style
from experiments.figures.command import draw, main
from tests.experiments.report.test_page import Made, make_run
from tests.experiments.report.test_report import ASYNDM, DM, made
from tests.lab import Lab

CONCAVE: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.GlobalMask"},
    "curve": {"_target_": "asyndm.curves.PiecewiseLinear", "concavity": 0.5},
}
RIGHT: dict[str, list[float | None]] = {"a": [1, 0, 1, 0], "b": [1, 1, 1, 0], "c": [0, 1, 0, 0]}


def asyndm(concavity: float = 0.5, threshold: float = 1.0) -> dict[str, Any]:
    return {
        "mask": {**ASYNDM["mask"], "threshold": threshold},
        "curve": {**ASYNDM["curve"], "concavity": concavity},
    }


def rows_in(folder: Path) -> list[Row]:
    return table(read_run(found) for found in find_runs([folder]))


def texts(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def drawn_lines(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in figure.axes[panel].get_lines()
    }


def swept(folder: Path) -> list[Row]:
    made(folder, "dm", RIGHT["a"], DM)
    for name, concavity in zip("abc", (0.3, 0.5, 0.8), strict=True):
        made(folder, f"asyn{name}", RIGHT[name], asyndm(concavity))
    return rows_in(folder)


def test_lines_and_bands_have_the_numbers_of_the_table(tmp_path: Path) -> None:
    rows = swept(tmp_path)
    assert lines.varied(rows) == ["concavity"]
    figure = lines.figure(rows, "concavity")
    dm, *asyn = rows
    points = drawn_lines(figure)
    assert points["AsynDM"] == ([0.3, 0.5, 0.8], [row["score"] for row in asyn])
    assert set(points["DM"][1]) == {dm["score"]} and figure.axes[0].get_ylabel() == "exact ↑"
    (band,) = figure.axes[0].collections
    vertices = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).tolist()}
    assert vertices == {
        (row["concavity"], row[end]) for row in asyn for end in ("score_low", "score_high")
    }
    (span,) = figure.axes[0].patches
    low, high = span.get_extents().transformed(figure.axes[0].transData.inverted()).intervaly
    assert (low, high) == (pytest.approx(dm["score_low"]), pytest.approx(dm["score_high"]))


def test_a_setting_that_means_nothing_to_a_method_leaves_it_level(tmp_path: Path) -> None:
    made(tmp_path, "dm", RIGHT["a"], DM)
    made(tmp_path, "concave", RIGHT["b"], CONCAVE)
    for name, threshold in zip("abc", (0.5, 1.0, 1.5), strict=True):
        made(tmp_path, f"asyn{name}", RIGHT[name], asyndm(threshold=threshold))
    rows = rows_in(tmp_path)
    assert lines.varied(rows) == ["threshold"]
    rows += [row | {"settings": "subjects=other"} for row in rows if row["method"] == "DM_concave"]
    (panel,) = lines.panels(rows, "threshold")
    assert {line.name: line.xs for line in panel.lines} == {
        "DM": (),
        "DM_concave": (),
        "AsynDM": (0.5, 1.0, 1.5),
    }


def test_only_what_agrees_in_all_else_shares_a_panel(tmp_path: Path) -> None:
    for i, (steps, eta) in enumerate(itertools.product((10, 20, 50), (0.0, 1.0))):
        for name, method in (("dm", DM), ("a3", asyndm(0.3)), ("a5", asyndm(0.5))):
            made(
                tmp_path,
                f"{name}-{i}",
                RIGHT["abc"[i % 3]],
                method,
                num_inference_steps=steps,
                eta=eta,
            )
    made(tmp_path, "alone", RIGHT["a"], asyndm(0.8), eta=0.5)
    rows = rows_in(tmp_path)
    assert lines.varied(rows) == ["steps"]
    found = lines.panels(rows, "steps")
    assert sorted((p.facts["eta"], p.facts["concavity"]) for p in found) == list(
        itertools.product((0.0, 1.0), (0.3, 0.5))
    )
    for panel in found:
        assert [(line.name, line.xs) for line in panel.lines] == [
            ("DM", (10, 20, 50)),
            ("AsynDM", (10, 20, 50)),
        ]
        assert {row["eta"] for line in panel.lines for row in line.rows} == {panel.facts["eta"]}
    figure = lines.figure(rows, "steps")
    titles = [axes.get_title() for axes in figure.axes]
    assert sorted(titles) == ["η 0, ω 0.3", "η 0, ω 0.5", "η 1, ω 0.3", "η 1, ω 0.5"]


def test_guidance_is_a_number_and_its_negative_prompt_a_condition() -> None:
    def row(guidance: str, score: float) -> Row:
        return {
            "method": "DM",
            "curve": "",
            "concavity": "",
            "steps": 5,
            "guidance": guidance,
            "n": 9,
        } | {
            "metric": "distance",
            "higher_is_better": False,
            "score": score,
            "score_low": -np.inf,
            "score_high": np.inf,
        }

    rows = [row("1", 0.1), row("2.5", 0.2), row("10", 0.3), row("2.5 not 'blurry'", 0.4)]
    figure = lines.figure(rows, "guidance")
    assert drawn_lines(figure)["DM"] == ([1, 2.5, 10], [0.1, 0.2, 0.3])
    assert [axes.get_ylabel() for axes in figure.axes] == ["distance ↓"]
    assert figure.axes[0].get_ylim()[1] < 1  # an unknown interval has no band
    with pytest.raises(UserError, match="eta: takes fewer than 3 values"):
        lines.figure(rows, "eta")


def test_where_panels_are_many_the_exact_metric_is_shown(tmp_path: Path) -> None:
    rows = swept(tmp_path)
    many = [
        row | {"metric": metric, "model": model}
        for metric in ("exact", "other")
        for model in "pqrstuv"
        for row in rows
    ]
    figure = lines.figure(many, "concavity")
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["exact ↑"] * 2
    assert [axes.get_title() for axes in figure.axes] == list("pqrstu")
    assert any("1 more not shown" in text for text in texts(figure))


def test_every_line_has_a_marker_and_dashes_of_its_own() -> None:
    known = style.looks(["DM", "AsynDM", "AsynDM subjects=words", "Mine"])
    assert known["AsynDM"] == style.LOOKS["AsynDM"] and len(known) == len(style.LOOKS) + 2
    everything = [*style.LOOKS.values(), *style.REST]
    assert (
        len({look.marker for look in everything})
        == len({look.dashes for look in everything})
        == len(everything)
    )
    assert len({look.colour for look in style.LOOKS.values()}) == len(style.LOOKS)


@pytest.mark.parametrize("lower", [False, True])
def test_the_front_is_the_best_for_its_cost(tmp_path: Path, lower: bool) -> None:
    scores = [(10, DM, "a"), (20, DM, "c"), (20, ASYNDM, "b"), (50, ASYNDM, "a")]
    for i, (steps, method, right) in enumerate(scores):
        made(tmp_path, f"{i}", RIGHT[right], method, num_inference_steps=steps)
    rows = [row | {"guidance": "5", "higher_is_better": not lower} for row in rows_in(tmp_path)]
    (((_, points)),) = cost.panels(rows)
    best = {(point.evaluations, point.row["score"]) for point in cost.front(points)}
    assert best == ({(20, 0.5), (40, 0.25)} if lower else {(20, 0.5), (40, 0.75)})
    figure = cost.figure(rows)
    markers = [line for line in figure.axes[0].get_lines() if line.get_marker() != "None"]
    assert sorted(float(np.asarray(m.get_ydata())[0]) for m in markers) == sorted(
        row["score"] for row in rows
    )
    filled = [m for m in markers if to_hex(m.get_markerfacecolor()) != "#ffffff"]
    assert {
        (round(float(np.asarray(m.get_xdata())[0])), float(np.asarray(m.get_ydata())[0]))
        for m in filled
    } == best
    bars = [bar.get_segments()[0][:, 1].tolist() for bar in figure.axes[0].collections]  # type: ignore[attr-defined]
    assert sorted(bars) == sorted([row["score_low"], row["score_high"]] for row in rows)


def test_a_cell_costs_what_its_plan_says(lab: Lab) -> None:
    swept = ["mask=none,dynamic,static", "num_inference_steps=2,5", "guidance.guidance_scale=1,3"]
    plans = planned(lab.arguments(*swept))
    assert len(plans) == 12
    for plan in plans:
        row = labels(
            Run(plan.folder, {"config": plan.config, "identity": plan.identity}, "pending")
        )
        assert cost.evaluations(row) == evaluations_per_image(plan)


def test_cells_of_one_cost_are_no_front_and_guidance_must_be_known(tmp_path: Path) -> None:
    rows = swept(tmp_path)
    with pytest.raises(UserError, match="guidance: the rows do not tell it"):
        cost.figure(rows)
    with pytest.raises(UserError, match="all methods cost the same"):
        cost.figure([row | {"guidance": "1"} for row in rows])


def test_a_rehearsal_costs_where_all_take_the_same_steps(tmp_path: Path) -> None:
    static = {**ASYNDM, "mask": {"_target_": "asyndm.masks.StaticMask", "threshold": 1.0}}
    made(tmp_path, "dm", RIGHT["c"], DM)
    made(tmp_path, "static", RIGHT["a"], static)
    (((_, points)),) = cost.panels([row | {"guidance": "5"} for row in rows_in(tmp_path)])
    assert sorted(point.evaluations for point in points) == [20, 40]
    assert cost.described(cost.front(points), 60)


@pytest.mark.parametrize("kind", [Quadratic, PiecewiseLinear, Exponential])
@pytest.mark.parametrize("concavity", [0.0, 0.5, 1.0])
def test_every_way_a_mask_can_flip_stays_in_the_region_and_reaches_the_end(
    kind: type[Curve], concavity: float
) -> None:
    curve, n = kind(concavity), 7
    low, high = curves.path(curve, [False] * n, n), curves.path(curve, [True] * n, n)
    assert low[0] == high[0] == 1001 and (low <= high + 1e-9).all()
    for flags in itertools.product([False, True], repeat=n):
        way = curves.path(curve, flags, n)
        assert (way >= low - 1e-9).all() and (way <= high + 1e-9).all() and abs(way[-1] - 1) < 1e-9


def test_the_region_drawn_holds_every_path_drawn() -> None:
    figure = curves.figure(0.7, 12)
    assert len(figure.axes) == 6
    for axes in figure.axes:
        region = np.asarray(axes.collections[0].get_paths()[0].vertices)
        low, high = (
            np.array([f(region[region[:, 0] == x, 1]) for x in range(13)]) for f in (np.min, np.max)
        )
        ways = [
            np.asarray(line.get_ydata(), float)
            for line in axes.get_lines()
            if len(np.asarray(line.get_xdata())) == 13
        ]
        assert len(ways) == 2 + curves.PATHS and len({tuple(way.round(6)) for way in ways}) > 4
        for way in ways:
            assert (
                (way >= low - 1e-9).all()
                and (way <= high + 1e-9).all()
                and abs(way[-1] - low[-1]) < 1e-9
            )
    with pytest.raises(UserError, match="concavity must be a number"):
        curves.figure(2)


@pytest.mark.parametrize("kind", [Linear, Quadratic, PiecewiseLinear, Exponential])
def test_one_pixel_without_torch_goes_as_a_tensor_of_pixels(kind: type[Curve]) -> None:
    curve, places = kind(0.3), [0.0, 1.3, 7.7, 20.0]
    for remaining in (1, 5, 20):
        together = curve.advance(torch.tensor(places, dtype=torch.float64), remaining, 20)
        assert together.tolist() == [curve.advance_one(place, remaining, 20) for place in places]
    with pytest.raises(UserError, match="remaining must be 1 to 20, got 0"):
        curve.advance_one(1.0, 0, 20)


def test_reports_and_their_schedules_need_no_torch() -> None:
    code = (
        "import sys, experiments.report.command; from experiments.figures import curves; "
        "from asyndm.curves import Quadratic; curves.path(Quadratic(0.5), [True] * 4, 4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=CONF.parent, timeout=60
        ).returncode
        == 0
    )


def sampled(lab: Lab) -> list[Run]:
    assert lab("-m", "mask=none,global,dynamic", "curve=quadratic").status == 0
    return [read_run(folder) for folder in find_runs([lab.runs])]


def judged(runs: Sequence[Run], rights: Sequence[Sequence[float]]) -> list[Run]:
    """The runs with these scores of their images, each with a reason where it is wrong."""
    return [
        replace(
            run,
            scores=[
                ScoreRow(
                    "",
                    image.prompt_id,
                    image.image_index,
                    "exact",
                    right,
                    "" if right else "the dog is a cat",
                )
                for image, right in zip(run.images, row, strict=True)
            ],
        )
        for run, row in zip(runs, rights, strict=True)
    ]


def test_pictures_of_real_runs(lab: Lab, tmp_path: Path) -> None:
    runs = sampled(lab)
    trio = seeds.compared(runs)
    assert [str(run.identity["mask"]["_target_"]).rpartition(".")[2] for run in trio] == [
        "NoMask",
        "GlobalMask",
        "DynamicMask",
    ]
    asyn = trio[-1]
    prompts = [image.prompt for image in asyn.images]
    wanted = [prompts[0], prompts[2], prompts[1]]
    for right in (0.0, 1.0):
        outcomes = judged(trio, [[right, 1 - right, right]] * 3)
        assert [shot[0].image.prompt for shot in seeds.shots(outcomes, 5)] == wanted
        assert {shot.right for shot in seeds.shots(outcomes, 1)[0]} == {bool(right)}

    figure = seeds.figure(judged(trio, [[1, 0, 1], [0, 0, 0], [1, 1, 1]]), 2)
    words = texts(figure)
    assert [word for word in words if word[0] in "✓✗"].count("✗ the dog is a cat") == 2
    frames = [
        to_hex(axes.spines["left"].get_edgecolor())
        for axes in figure.axes
        if axes.spines["left"].get_visible() and axes.spines["left"].get_linewidth() > 2
    ]
    blue, orange = style.RIGHT.lower(), style.WRONG.lower()
    assert frames == [blue, orange, blue] * 2
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    way = read_trace(strip.trace_file(asyn, asyn.images[0]))
    with Image.open(asyn.folder / asyn.images[0].file) as picture:
        for wanted_picture in (picture.convert("RGB"), way.maps[1], way.masks[1]):
            assert any(np.array_equal(one, np.asarray(wanted_picture)) for one in shown)
    assert any("never chosen by outcome" in word for word in words)

    run, image = strip.chosen(runs)
    assert run.folder == asyn.folder and image == asyn.images[0]
    figure = strip.figure(run, image)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    frames_of = read_previews(strip.previews_file(run, image), len(way.steps))
    expected = [np.asarray(cell) for cell in (*way.maps, *way.masks, *frames_of)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=False))
    assert {"1", "2", "dog", "cat"} <= set(texts(figure))


def test_the_command_writes_what_there_is_data_for_and_says_the_rest(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sampled(lab)
    out = lab.folder / "figures"
    assert main([str(lab.runs), "--out", str(out)]) == 0
    said = capsys.readouterr()
    names = ["seeds", "strip", "curves"]
    assert said.out.splitlines() == [f"{out / name}.png, .svg" for name in names]
    refused = said.err.splitlines()
    assert [line.split(":")[1].strip() for line in refused] == ["lines", "cost"]
    assert all("no scores" in line for line in refused)
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [
        f"{name}.{end}" for name in sorted(names) for end in ("png", "svg")
    ]
    before = [file.read_bytes() for file in files]
    assert draw(runs, table(runs), out) == [
        out / f"{name}.{end}" for name in names for end in ("png", "svg")
    ]
    assert [file.read_bytes() for file in files] == before
    with Image.open(out / "seeds.png") as picture:
        assert picture.width == 1200


def test_lines_and_cost_are_written_twice_alike(tmp_path: Path) -> None:
    for steps, name in ((5, "a"), (10, "b"), (20, "c")):
        made(tmp_path / "runs", f"{steps}", RIGHT[name], DM, num_inference_steps=steps)
    content = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert main([str(tmp_path / "runs"), "--out", str(out), "--only", "lines,cost"]) == 0
        content.append({file.name: file.read_bytes() for file in sorted(out.iterdir())})
    assert content[0] == content[1]
    assert list(content[0]) == ["cost.png", "cost.svg", "lines_steps.png", "lines_steps.svg"]


def test_errors_are_one_line_that_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main([*out, "--only", "curves,pie"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: --only pie: no such figure; choose from seeds,"
    )
    assert main([*out, "--only", "strip"]) == 1
    assert (
        capsys.readouterr().err
        == "not drawn: strip: no runs; name their folders, or use --only curves\n"
    )
    made(tmp_path / "runs", "dm", [1, 0], DM)
    assert main([str(tmp_path / "runs"), *out, "--metric", "clip"]) == 1
    assert "--metric clip: no such scores; there are exact" in capsys.readouterr().err
    assert main([str(tmp_path / "runs"), *out, "--only", "lines,seeds"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        "takes 3 values or more" in said[0]
        and "no run of DM_concave and AsynDM; ask for it" in said[1]
    )


def with_previews(folder: Path, prompt: str, steps: int = 3) -> Run:
    """A run of AsynDM with one picture, its trace over so many steps and its predicted pictures."""
    run = make_run(folder, ASYNDM, [Made(prompt)])
    levels = np.linspace(1000, 0, steps)[:, None, None] * np.ones((steps, 4, 4))
    way = trace(list(range(1, steps + 1)), levels, np.ones((steps, 1, 4, 4)))
    (folder / "traces" / "p0_0.png").write_bytes(encode(way))
    (folder / "previews").mkdir()
    previews = [Image.new("RGB", (16, 16))] * steps
    (folder / "previews" / "p0_0.png").write_bytes(encode_previews(previews))
    return run


@pytest.mark.fault(
    what="a prompt with control characters or marks that reorder a line",
    kind="texts of files that break a figure",
    now="they are spelled out in every figure, whose SVG stays XML",
)
def test_no_text_breaks_a_figure(tmp_path: Path) -> None:
    run = with_previews(tmp_path / "a", "a \x1b[31mred\x1b]0;HACK\x07 dog \u202e\uffff")
    (image,) = run.images
    figure = strip.figure(run, replace(image, subjects=("a \x9b1mcat",)))
    figure.suptitle("\x1b as lines and cost have it")
    style.save(figure, tmp_path / "strip")
    ElementTree.parse(tmp_path / "strip.svg")
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\uffff"} & set(
        (tmp_path / "strip.svg").read_text()
    )
    said = texts(figure)
    assert r"“a \x1b[31mred\x1b]0;HACK\x07 dog \u202e\uffff”" in said and r"a \x9b1mcat" in said


def test_a_strip_of_one_step_is_as_wide_as_it_must_be_and_says_that_colours_repeat(
    tmp_path: Path,
) -> None:
    run = with_previews(tmp_path / "a", "a dog", steps=1)
    image = replace(run.images[0], subjects=tuple(f"dog {i}" for i in range(6)))
    figure = strip.figure(run, image)
    assert figure.get_figwidth() < 3 and "colours repeat after 5 subjects" in texts(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    height = {text.get_text(): text.get_window_extent(renderer) for text in figure.findobj(Text)}
    assert height["0\nclean"].y0 - height["dog 0"].y1 > 0.05 * figure.dpi


@pytest.mark.parametrize("text", ["a dog and a cat " * 9, "x" * 500, "a dog " * 50_000])
def test_a_title_is_no_wider_than_its_figure(text: str) -> None:
    short = style.shortened(text, 2.0, 9.0, "bold")
    assert short.endswith("…") and 1.2 < style.text_width(short, 9.0, "bold") <= 2.0


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
    run = with_previews(tmp_path / "a", r"a dog $\frac{1} for $5")
    (image,) = run.images
    figure = strip.figure(run, replace(image, subjects=subjects))
    style.save(figure, tmp_path / "strip")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_text().strip()
    ]
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
