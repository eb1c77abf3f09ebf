"""The table: what is compared with what, and its numbers."""

from __future__ import annotations

import csv
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from asyndm.subjects import Subject
from evaluation.runs.files import read_json, write_json
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    SCORES_FILE,
    find_runs,
    read_run,
    write_prompts,
)
from evaluation.runs.prompts import Prompt
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.statistics import clustered, wilson
from evaluation.table_text import lay_out, notes, to_latex, to_markdown
from evaluation.tables import Row, table
from experiments.report.command import main
from tests.lab import Lab

DM: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.NoMask"},
    "curve": {"_target_": "asyndm.curves.Linear"},
}
ASYNDM: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.DynamicMask", "threshold": 1.0},
    "curve": {"_target_": "asyndm.curves.PiecewiseLinear", "concavity": 0.5},
}


def made(
    root: Path,
    name: str,
    right: list[float | None],
    method: dict[str, Any],
    first: int = 0,
    prompt_set: dict[str, Any] | None = None,
    own_concavity: float | None = None,
    **changes: Any,
) -> None:
    """A run of prompts `first`, `first` + 1, ... with these scores; every other one of kind
    "two"."""
    identity = {
        "recipe": 1,
        "model": {"weights": "w", "dtype": "float32"},
        "guidance": {"guidance_scale": 5.0, "negative_prompt": None},
        "num_inference_steps": 10,
        "eta": 1.0,
        "seed": 0,
        "height": None,
        "width": None,
        **method,
        **changes,
    }
    config = {"model": {"name": "tiny"}, "prompt_set": prompt_set or {"name": "shapes"}}
    folder, seed = root / name, identity["seed"]
    write_json(
        folder / "run.json",
        {"schema_version": 1, "config": config, "identity": identity, "timings": {}},
    )
    write_json(folder / "state.json", {"state": "done" if None not in right else "running"})
    ids = [f"p{first + i}" for i in range(len(right))]
    kinds = ["two" if (first + i) % 2 else "one" for i in range(len(right))]
    subject = Subject("a", own_concavity)
    write_prompts(folder / PROMPTS_FILE, [Prompt(i, f"a {i}", (subject,)) for i in ids])
    images = [
        ImageRow(name, i, f"a {i}", (), kind, 0, seed, f"images/{i}.png", "")
        for i, kind in zip(ids, kinds, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)
    write_rows(
        folder / SCORES_FILE,
        ScoreRow,
        [ScoreRow(name, i, 0, "exact", v) for i, v in zip(ids, right, strict=True)],
    )


def row_of(rows: list[Row], **wanted: Any) -> Row:
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def test_methods_are_compared_with_dm_on_the_images_both_have(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0, 1, 0, 1, 1], DM)
    made(tmp_path, "asyn", [1, 1, 0, 1, 0], ASYNDM, first=1)
    rows = table(map(read_run, find_runs([tmp_path])))
    dm, asyn = row_of(rows, method="DM"), row_of(rows, method="AsynDM")
    expected = wilson(4, 6)
    assert (dm["n"], dm["score"], dm["score_low"], dm["score_high"]) == (
        6,
        4 / 6,
        expected.low,
        expected.high,
    )
    assert dm["difference"] is None and dm["curve"] == ""
    differences = clustered([1, 0, 0, 0, -1], list("12345"))
    assert (asyn["curve"], asyn["concavity"], asyn["n"], asyn["pairs"]) == (
        "piecewise_linear",
        0.5,
        5,
        5,
    )
    assert (asyn["difference"], asyn["wins"], asyn["losses"]) == (0, 1, 1)
    assert (asyn["difference_low"], asyn["difference_high"]) == (differences.low, differences.high)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_inference_steps": 20},
        {"eta": 0.0},
        {"seed": 1},
        {"model": {"weights": "v", "dtype": "float32"}},
        {"guidance": {"guidance_scale": 3.0, "negative_prompt": None}},
        {"height": 32},
        {"recipe": 2},
    ],
)
def test_other_conditions_are_not_compared(tmp_path: Path, changes: dict[str, Any]) -> None:
    made(tmp_path, "dm", [1, 0, 1], DM)
    made(tmp_path, "asyn", [1, 1, 1], ASYNDM, **changes)
    assert (
        row_of(table(map(read_run, find_runs([tmp_path]))), method="AsynDM")["difference"] is None
    )


def test_runs_of_one_method_are_pooled_and_no_image_counts_twice(tmp_path: Path) -> None:
    made(tmp_path, "a", [1, 0], DM)
    made(tmp_path, "b", [0, 1, 1], DM, first=1)
    made(tmp_path, "c", [0, 0], DM, seed=1)
    (row,) = table(map(read_run, find_runs([tmp_path])))
    assert row["n"] == 6 and row["score"] == 3 / 6


def test_runs_that_differ_in_concavities_only_have_rows_of_their_own(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0, 1], DM)
    made(tmp_path, "curve's own", [1, 1, 1], ASYNDM)
    made(tmp_path, "other", [0, 0, 0], ASYNDM, own_concavity=0.3)
    made(tmp_path, "other again", [0, 0], ASYNDM, own_concavity=0.3, first=2)
    dm, *asyn = table(map(read_run, find_runs([tmp_path])))
    assert dm["settings"] == "" and dm["n"] == 3
    assert sorted((row["n"], row["score"], row["difference"]) for row in asyn) == [
        (3, 1.0, pytest.approx(1 / 3)),
        (4, 0.0, pytest.approx(-2 / 3)),
    ]
    assert asyn[0]["settings"] != asyn[1]["settings"]
    assert all(row["settings"].startswith("subjects=") for row in asyn)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "shapes", "split": "test"}, {"name": "shapes", "split": "val"}),
        ({"name": "file", "path": "a/mine.yaml"}, {"name": "file", "path": "a/other.yaml"}),
        (
            {"name": "reference", "prompts_path": "a.json", "items_path": "i.json"},
            {"name": "reference", "prompts_path": "b.json", "items_path": "i.json"},
        ),
    ],
)
def test_prompts_of_other_splits_and_files_never_pool(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    made(tmp_path, "a", [1, 0], DM, prompt_set=first)
    made(tmp_path, "b", [1], DM, prompt_set=second, first=2)
    rows = table(map(read_run, find_runs([tmp_path])))
    assert sorted(row["n"] for row in rows) == [1, 2]
    assert len({row["prompt_set"] for row in rows}) == 2


def test_the_dm_of_a_prompt_is_found_whatever_file_it_came_from(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0], DM, prompt_set={"name": "file", "path": "plain.yaml"})
    made(
        tmp_path,
        "asyn",
        [1, 1],
        ASYNDM,
        prompt_set={"name": "file", "path": "own.yaml"},
        own_concavity=0.3,
    )
    assert row_of(table(map(read_run, find_runs([tmp_path]))), method="AsynDM")["difference"] == 0.5


def test_the_number_of_pairs_is_shown_where_it_is_not_that_of_the_images(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0], DM)
    made(tmp_path, "asyn", [1, 1], ASYNDM)
    assert "pairs" not in to_markdown(table(map(read_run, find_runs([tmp_path]))))
    made(tmp_path, "more", [1], ASYNDM, first=2)
    assert "| pairs |" in to_markdown(table(map(read_run, find_runs([tmp_path]))))


def test_kinds_have_rows_of_their_own(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0, 1, 0], DM)
    made(tmp_path, "asyn", [1, 1, 1, 0], ASYNDM)
    rows = table(map(read_run, find_runs([tmp_path])), by_kind=True)
    assert [row["kind"] for row in rows] == ["all", "mean of kinds", "one", "two"] * 2
    two = row_of(rows, method="AsynDM", kind="two")
    assert (two["n"], two["score"], two["difference"], two["wins"]) == (2, 0.5, 0.5, 1)


def with_kinds(folder: Path, kinds: list[str]) -> None:
    """Gives the pictures of a run these kinds."""
    images = [
        replace(image, kind=kind)
        for image, kind in zip(read_run(folder).images, kinds, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)


@pytest.mark.fault(
    what="prompt kinds called `all` or `mean of kinds`",
    kind="names in data that mean something to the program",
    now="are rows of their own, in quotes, beside the totals",
)
def test_a_kind_called_as_a_total_is_none(tmp_path: Path) -> None:
    kinds = ["all", "all", "mean of kinds", "x"]
    for name, method in (("dm", DM), ("asyn", ASYNDM)):
        made(tmp_path, name, [1, 0, 1, 1], method)
        with_kinds(tmp_path / name, kinds)
    rows = [
        row
        for row in table(map(read_run, find_runs([tmp_path])), by_kind=True)
        if row["method"] == "DM"
    ]
    assert [(row["kind"], row["n"], row["score"]) for row in rows] == [
        ("all", 4, 0.75),
        ("mean of kinds", 4, pytest.approx(2.5 / 3)),
        ("'all'", 2, 0.5),
        ("'mean of kinds'", 1, 1.0),
        ("x", 1, 1.0),
    ]


@pytest.mark.fault(
    what="pictures of which only some have a kind, with `--by kind`",
    kind="a total that leaves out some without a word",
    now="a note says how many have none",
)
def test_pictures_without_a_kind_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "runs", "dm", [1, 0, 1, 1], DM)
    with_kinds(tmp_path / "runs" / "dm", ["a", "b", "", ""])
    note = "2 of 4 images have no kind: in no kind's row, and not in the mean of kinds."
    assert main([str(tmp_path / "runs"), "--by", "kind"]) == 0
    assert note in capsys.readouterr().out
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "page")]) == 0
    assert note not in capsys.readouterr().out
    assert unescape((tmp_path / "page" / "index.html").read_text()).count(note) == 1


def test_what_differs_gets_a_column(tmp_path: Path) -> None:
    made(tmp_path, "a", [1], DM)
    assert not {"eta", "guidance", "weights"} & set(table(map(read_run, find_runs([tmp_path])))[0])
    made(tmp_path, "b", [1], DM, eta=0.0)
    assert {row["eta"] for row in table(map(read_run, find_runs([tmp_path])))} == {0.0, 1.0}


def test_the_command_prints_and_writes_partial_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "runs", "dm", [1, None, 1], DM)
    made(tmp_path / "runs", "asyn", [0, 1, 1], ASYNDM)
    paths = tmp_path / "t.csv", tmp_path / "t.md"
    assert main([str(tmp_path / "runs"), "--csv", str(paths[0]), "--markdown", str(paths[1])]) == 0
    out = capsys.readouterr().out
    assert paths[1].read_text() == out
    assert "| -0.500 [" in out and "| 0-1-1 " in out and "Not finished: dm." in out
    assert len({len(line) for line in out.splitlines() if line.startswith("|")}) == 1
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["n"], row["difference"]) for row in rows] == [
        ("DM", "2", ""),
        ("AsynDM", "3", "-0.5"),
    ]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b"\xff"),
        ("run.json", b'{"schema_version": 1, "config": {}, "identity": {}, "timings": {}}'),
        ("images.csv", b"\xff"),
        ("scores.csv", b"run_id\n1,2,3\n"),
        ("prompts.json", b"[{}]"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes
) -> None:
    made(tmp_path, "dm", [1], DM)
    made(tmp_path, "asyn", [1], ASYNDM)
    (tmp_path / "asyn" / file).write_bytes(content)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "| DM " in said.out and "| AsynDM " not in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("warning: left out: ") and f"asyn/{file}" in line


def test_unknown_metrics_and_unwritable_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "dm", [1], DM)
    assert main([str(tmp_path), "--metric", "clip"]) == 1
    assert "--metric clip: no such scores; there are exact" in capsys.readouterr().err
    assert main([str(tmp_path), "--csv", str(tmp_path / "dm" / "run.json" / "t.csv")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_real_runs_are_reported(lab: Lab) -> None:
    lab(
        "-m",
        "mask=none,global,dynamic",
        "+metric.brightness._target_=tests.experiments.metrics.Brightness",
    )
    rows = table(map(read_run, find_runs([lab.runs])))
    assert [row["method"] for row in rows] == ["DM", "DM_concave", "AsynDM"]
    assert [row["pairs"] for row in rows] == [None, 3, 3]


def test_the_latex_table_says_what_the_markdown_table_says(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1.0, 0.0, 1.0, 0.0], DM)
    made(tmp_path, "asyn", [0.0, 0.0, 1.0, 0.0], ASYNDM)
    out = tmp_path / "table.tex"
    assert main([str(tmp_path), "--latex", str(out), "--markdown", str(tmp_path / "table.md")]) == 0
    written = out.read_text().splitlines()
    end = written.index(r"\end{tabular}")
    lines, said = written[:end], written[end + 1 :]
    assert lines[1] == r"\toprule" and said[-1].startswith(
        r"\par\smallskip{\footnotesize 95 \% intervals"
    )
    assert (
        said[0]
        == r"\par\smallskip{\footnotesize Every row: 4 images, of 4 prompts and 1 seed.\par}"
    )
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
    assert lines[0] == rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
    plain = [
        [cell.replace("$-$", "-").replace(r"$\uparrow$", "↑").replace("\\", "") for cell in row]
        for row in rows
    ]
    markdown = (tmp_path / "table.md").read_text().splitlines()
    told = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown
        if line.startswith("|")
    ]
    assert plain == [told[0], *told[2:]] and any("$-$0.25" in cell for cell in rows[2])


def test_latex_letters_of_a_kind_stay_letters(tmp_path: Path) -> None:
    kinds = [r"50% \k", "a|b > c", "x_{1}^2~"]
    made(tmp_path, "dm", [1.0, 0.0, 1.0], DM)
    run = read_run(tmp_path / "dm")
    images = [replace(image, kind=kind) for image, kind in zip(run.images, kinds, strict=True)]
    text = to_latex(table([replace(run, images=images)], by_kind=True))
    for escaped in (
        r"50\% \textbackslash{}k ",
        r"a\textbar{}b \textgreater{} c ",
        r"x\_\{1\}\textasciicircum{}2\textasciitilde{}",
    ):
        assert escaped in text


def test_rows_are_compared_with_what_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "dm", [1.0, 0.0, 1.0, 0.0], DM)
    made(tmp_path, "found", [1.0, 1.0, 1.0, 0.0], ASYNDM)
    static = ASYNDM | {"mask": ASYNDM["mask"] | {"_target_": "asyndm.masks.StaticMask"}}
    made(tmp_path, "once", [0.0, 0.0, 1.0, 0.0], static)
    assert main([str(tmp_path), "--against", "method=AsynDM"]) == 0
    told = capsys.readouterr().out
    (row,) = [line for line in told.splitlines() if "AsynDM_static" in line]
    assert "difference from method=AsynDM [95 %]" in told and "-0.500 [" in row and "0-2-2" in row
    rows = table(map(read_run, find_runs([tmp_path])), against=("method", "AsynDM"))
    assert [(row["method"], row["pairs"]) for row in rows] == [
        ("DM", None),
        ("AsynDM", None),
        ("AsynDM_static", 4),
    ]
    for words, wanted in (
        ("method=Asyn", "--against method=Asyn: no such row; there are DM, AsynDM, AsynDM_static"),
        ("colour=red", "--against colour=red: no such column; there are method, curve,"),
    ):
        assert main([str(tmp_path), "--against", words]) == 1
        assert wanted in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--against", "guidance"])
    assert "'guidance' is not COLUMN=VALUE" in capsys.readouterr().err


def test_a_folder_is_no_place_for_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "runs", "dm", [1.0], DM)
    assert main([str(tmp_path / "runs"), "--csv", str(tmp_path)]) == 1
    assert f"--csv {tmp_path}: a folder; name a file in it" in capsys.readouterr().err


def test_p_values_are_corrected_over_the_table(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1.0] * 8, DM)
    made(tmp_path, "asyn", [0.0] * 8, ASYNDM)
    made(
        tmp_path,
        "asyn20",
        [0.0] * 7 + [1.0],
        ASYNDM | {"curve": {"_target_": "asyndm.curves.Linear"}},
    )
    tested = [
        row for row in table([read_run(f) for f in find_runs([tmp_path])]) if row["p"] is not None
    ]
    assert sorted(row["p"] for row in tested) == [2 / 256, 2 / 128]
    assert sorted(row["p_holm"] for row in tested) == [4 / 256, 4 / 256]


def test_what_surely_leads_is_bold_in_every_format(tmp_path: Path) -> None:
    made(tmp_path, "dm", [0.0] * 30 + [1.0] * 10, DM)
    made(tmp_path, "asyn", [1.0] * 40, ASYNDM)
    rows = table([read_run(f) for f in find_runs([tmp_path])])
    assert [row["best"] for row in rows] == [False, True]
    layout = lay_out(rows)
    assert layout.bold == {(1, layout.heads.index("score [95 %]"))}
    assert "| **1.000** [" in to_markdown(rows) and r"& \textbf{1.000} [" in to_latex(rows)


def test_a_lead_that_may_be_luck_is_not_bold(tmp_path: Path) -> None:
    made(tmp_path, "dm", [0.0, 1.0] * 20, DM)
    made(tmp_path, "asyn", [0.0, 1.0] * 19 + [1.0, 1.0], ASYNDM)
    rows = table([read_run(f) for f in find_runs([tmp_path])])
    assert not any(row["best"] for row in rows) and "**" not in to_markdown(rows)


def test_where_less_is_better_wins_arrows_and_bold_turn_around(tmp_path: Path) -> None:
    made(tmp_path, "dm", [0.9] * 30, DM)
    made(tmp_path, "asyn", [0.2 + i / 100 for i in range(29)] + [0.95], ASYNDM)
    for name in ("dm", "asyn"):
        record = read_json(tmp_path / name / "run.json")
        record["metrics"] = {
            "exact": {"version": 3, "higher_is_better": False, "convention": "odd"}
        }
        write_json(tmp_path / name / "run.json", record)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    dm, asyn = table(runs)
    assert (asyn["wins"], asyn["ties"], asyn["losses"]) == (29, 0, 1)
    assert asyn["difference"] < 0 and asyn["best"] and not dm["best"]
    assert "exact ↓" in to_markdown([dm, asyn]) and r"exact $\downarrow$" in to_latex([dm, asyn])
    assert "exact: (lower is better, version 3, convention odd)" in notes([dm, asyn], runs)


def test_the_notes_say_how_many_images_and_whose_noise(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0], DM)
    made(tmp_path, "asyn", [1, 1], ASYNDM)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    rows = table(runs)
    said = notes(rows, runs)
    assert said[0] == "Every row: 2 images, of 2 prompts and 1 seed."
    assert said[1].startswith("Prompts share their seeds here")
    assert not {"images", "prompts", "seeds"} & set(lay_out(rows).heads)
    made(tmp_path, "more", [1], ASYNDM, seed=1)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    rows = table(runs)
    assert {"images", "prompts", "seeds"} <= set(lay_out(rows).heads)
    assert not any(line.startswith("Every row") for line in notes(rows, runs))


def test_bases_that_differ_between_runs_are_told(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0], DM)
    made(tmp_path, "asyn", [1, 1], ASYNDM)
    record = read_json(tmp_path / "asyn" / "run.json")
    record["metrics"] = {"exact": {"version": 2, "higher_is_better": True}}
    write_json(tmp_path / "asyn" / "run.json", record)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    assert any(
        line.startswith("exact: differs between the runs: ") for line in notes(table(runs), runs)
    )


def test_thresholds_get_a_column_where_they_differ(tmp_path: Path) -> None:
    made(tmp_path, "dm", [1, 0], DM)
    made(tmp_path, "asyn", [1, 1], ASYNDM)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    assert "threshold" not in table(runs)[0]
    made(tmp_path, "strict", [1, 1], {**ASYNDM, "mask": {**ASYNDM["mask"], "threshold": 2.0}})
    rows = table([read_run(f) for f in find_runs([tmp_path])])
    assert [row["threshold"] for row in rows] == ["", 1.0, 2.0]


def test_runs_are_found_by_the_words_they_were_made_with(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    words = lab.arguments("mask=none,dynamic", "eta=0,1")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert (
        "none of its 4 runs are there; make them with python -m experiments.run -m model=folder"
        in said
    )
    lab(
        "-m",
        "mask=none,dynamic",
        "eta=0",
        "+metric.brightness._target_=tests.experiments.metrics.Brightness",
    )
    lab(
        "-m",
        "mask=global",
        "eta=0",
        "+metric.brightness._target_=tests.experiments.metrics.Brightness",
    )
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "| DM " in out and "| AsynDM " in out and "DM_concave" not in out
    assert "Not made yet: folder-DM-2, folder-AsynDM-quadratic-0.5-2." in out
    assert main([str(lab.runs), "metric=exact"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("error: metric=exact: a setting beside a folder (")
        and said.count("\n") == 1
    )
    assert main([*words, "et=3"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_rows_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for scale in (10.0, 2.0, 7.5):
        made(
            tmp_path,
            f"g{scale}",
            [1, 0],
            DM,
            guidance={"guidance_scale": scale, "negative_prompt": None},
        )
    assert [row["guidance"] for row in table([read_run(f) for f in find_runs([tmp_path])])] == [
        "2",
        "7.5",
        "10",
    ]


@pytest.mark.fault(
    what="prompts of which one kind has more than another, as GenEval's",
    kind="a published number that is nowhere",
    now="--by kind has a row for the mean over kinds, with its interval and difference, in every "
    "format",
)
def test_the_mean_over_kinds_is_told_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, right, method in (("dm", [1, 1, 1, 0], DM), ("asyn", [1, 0, 1, 1], ASYNDM)):
        made(tmp_path / "runs", name, list(map(float, right)), method)
        with_kinds(tmp_path / "runs" / name, ["single"] * 3 + ["pair"])
    files = {name: tmp_path / f"t.{name}" for name in ("csv", "latex")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert main([str(tmp_path / "runs"), "--by", "kind", *options]) == 0
    out = capsys.readouterr().out
    (dm, asyn) = [
        line for line in out.splitlines() if "mean of kinds" in line and line.startswith("|")
    ]
    assert "| 0.500 [" in dm and "| 0.833 [" in asyn and "| +0.333 [" in asyn
    assert "The mean of kinds is unweighted" in out
    with files["csv"].open() as file:
        row = row_of(list(csv.DictReader(file)), method="AsynDM", kind="mean of kinds")
    assert float(row["score"]) == pytest.approx(5 / 6) and float(
        row["difference"]
    ) == pytest.approx(1 / 3)
    assert " & mean of kinds & " in files["latex"].read_text()
