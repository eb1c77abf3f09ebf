"""The table as people read it, and what it must say beside its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.runs.folder import find_runs, read_run
from evaluation.statistics import wilson
from evaluation.table_text import COUNTED, lay_out, to_latex, to_markdown, write_notes
from evaluation.tables import make_table
from tests.written_runs import ASYNDM, DM, change_record, write_run


def test_the_number_of_pairs_is_shown_where_it_is_not_that_of_the_images(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    assert "pairs" not in to_markdown(make_table(map(read_run, find_runs([tmp_path]))))
    write_run(tmp_path, "more", [1], ASYNDM, first=2)
    assert "| pairs |" in to_markdown(make_table(map(read_run, find_runs([tmp_path]))))


def test_latex_letters_of_a_kind_stay_letters(tmp_path: Path) -> None:
    kinds = [r"50% \k", "a|b > c", "x_{1}^2~"]
    write_run(tmp_path, "dm", [1.0, 0.0, 1.0], DM)
    run = read_run(tmp_path / "dm")
    images = [replace(image, kind=kind) for image, kind in zip(run.images, kinds, strict=True)]
    text = to_latex(make_table([replace(run, images=images)], by_kind=True))
    for escaped in (
        r"50\% \textbackslash{}k ",
        r"a\textbar{}b \textgreater{} c ",
        r"x\_\{1\}\textasciicircum{}2\textasciitilde{}",
    ):
        assert escaped in text


def test_what_surely_leads_is_bold_in_every_format(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [0.0] * 30 + [1.0] * 10, DM)
    write_run(tmp_path, "asyn", [1.0] * 40, ASYNDM)
    rows = make_table([read_run(f) for f in find_runs([tmp_path])])
    assert [row["best"] for row in rows] == [False, True]
    layout = lay_out(rows)
    assert layout.bold == {(1, layout.heads.index("score [95 %]"))}
    assert "| **1.000** [" in to_markdown(rows) and r"& \textbf{1.000} [" in to_latex(rows)


def test_the_notes_say_how_many_images_and_whose_noise(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    rows = make_table(runs)
    said = write_notes(rows, runs)
    assert said[0] == "Every row: 2 images, of 2 prompts and 1 seed."
    assert said[1].startswith("Prompts share their seeds here")
    assert not {"images", "prompts", "seeds"} & set(lay_out(rows).heads)
    write_run(tmp_path, "more", [1], ASYNDM, seed=1)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    rows = make_table(runs)
    assert {"images", "prompts", "seeds"} <= set(lay_out(rows).heads)
    assert not any(line.startswith("Every row") for line in write_notes(rows, runs))


def test_counts_are_shown_and_explained_where_there_are_any(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    runs = [read_run(tmp_path / "dm")]
    rows = make_table(runs)
    assert "surplus" not in to_markdown(rows) and COUNTED not in write_notes(rows, runs)
    write_run(tmp_path, "dm", [1, 0], DM, counts=[(0, 0), (1, 0)])
    write_run(tmp_path, "asyn", [1, 1], ASYNDM, counts=[(0, 0), (0, 0)])
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    rows = make_table(runs)
    layout = lay_out(rows)
    assert layout.heads[-4:] == (
        "surplus per image [95 %]",
        "surplus, difference [95 %]",
        "missing per image [95 %]",
        "missing, difference [95 %]",
    )
    (dm, asyn), found = layout.body, wilson(1, 2)
    assert dm[-4:-2] == (f"0.500 [{found.low:.3f}, {found.high:.3f}]", "")
    assert asyn[-3].startswith("-0.500 [-") and asyn[-2].startswith("0.000 [0.000, ")
    assert COUNTED in write_notes(rows, runs)


def test_bases_that_differ_between_runs_are_told(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    change_record(tmp_path / "asyn", metrics={"exact": {"version": 2, "higher_is_better": True}})
    runs = [read_run(f) for f in find_runs([tmp_path])]
    assert any(
        line.startswith("exact: differs between the runs: ")
        for line in write_notes(make_table(runs), runs)
    )
