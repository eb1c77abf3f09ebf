"""The table: what is compared with what, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.labels import METHODS
from evaluation.runs.folder import find_runs, read_run
from evaluation.statistics import cluster_interval, holm, wilson
from evaluation.table_text import to_csv, to_latex, to_markdown, write_notes
from evaluation.tables import TableRow, make_table
from tests.written_runs import (
    ASYNDM,
    DM,
    STATIC,
    change_kinds,
    change_record,
    make_method,
    write_run,
)


def tabulate(folder: Path) -> list[TableRow]:
    """The table of all runs there."""
    return make_table(map(read_run, find_runs([folder])))


def find_row(rows: list[TableRow], **wanted: Any) -> TableRow:
    """The only one that has these values."""
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def test_methods_are_compared_with_dm_on_the_images_both_have(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0, 1, 0, 1, 1], DM)
    method = make_method("DynamicMask", "PiecewiseLinear", threshold=1.0)
    write_run(tmp_path, "asyn", [1, 1, 0, 1, 0], method, first=1)
    rows = tabulate(tmp_path)
    dm, asyn = find_row(rows, method="DM"), find_row(rows, method="AsynDM")
    expected = wilson(4, 6)
    assert (dm["n"], dm["score"], dm["score_low"], dm["score_high"]) == (
        6,
        4 / 6,
        expected.low,
        expected.high,
    )
    assert dm["difference"] is None and dm["curve"] == ""
    differences = cluster_interval([1, 0, 0, 0, -1], list("12345"))
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
    write_run(tmp_path, "dm", [1, 0, 1], DM)
    write_run(tmp_path, "asyn", [1, 1, 1], ASYNDM, **changes)
    assert find_row(tabulate(tmp_path), method="AsynDM")["difference"] is None


def test_runs_of_one_method_are_pooled_and_no_image_counts_twice(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [1, 0], DM)
    write_run(tmp_path, "b", [0, 1, 1], DM, first=1)
    write_run(tmp_path, "c", [0, 0], DM, seed=1)
    (row,) = tabulate(tmp_path)
    assert row["n"] == 6 and row["score"] == 3 / 6


def test_runs_that_differ_in_concavities_only_have_rows_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0, 1], DM)
    write_run(tmp_path, "curve's own", [1, 1, 1], ASYNDM)
    write_run(tmp_path, "other", [0, 0, 0], ASYNDM, own_concavity=0.3)
    write_run(tmp_path, "other again", [0, 0], ASYNDM, own_concavity=0.3, first=2)
    dm, *asyn = tabulate(tmp_path)
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
    write_run(tmp_path, "a", [1, 0], DM, prompt_set=first)
    write_run(tmp_path, "b", [1], DM, prompt_set=second, first=2)
    rows = tabulate(tmp_path)
    assert sorted(row["n"] for row in rows) == [1, 2]
    assert len({row["prompt_set"] for row in rows}) == 2


def test_the_dm_of_a_prompt_is_found_whatever_file_it_came_from(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM, prompt_set={"name": "file", "path": "plain.yaml"})
    write_run(
        tmp_path,
        "asyn",
        [1, 1],
        ASYNDM,
        prompt_set={"name": "file", "path": "own.yaml"},
        own_concavity=0.3,
    )
    assert find_row(tabulate(tmp_path), method="AsynDM")["difference"] == 0.5


def test_kinds_have_rows_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0, 1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1, 1, 0], ASYNDM)
    rows = make_table(map(read_run, find_runs([tmp_path])), by_kind=True)
    assert [row["kind"] for row in rows] == ["all", "mean of kinds", "one", "two"] * 2
    two = find_row(rows, method="AsynDM", kind="two")
    assert (two["n"], two["score"], two["difference"], two["wins"]) == (2, 0.5, 0.5, 1)


@pytest.mark.fault(
    what="prompt kinds called `all` or `mean of kinds`",
    kind="names in data that mean something to the program",
    now="are rows of their own, in quotes, beside the totals",
)
def test_a_kind_called_as_a_total_is_none(tmp_path: Path) -> None:
    kinds = ["all", "all", "mean of kinds", "x"]
    for name, method in (("dm", DM), ("asyn", ASYNDM)):
        write_run(tmp_path, name, [1, 0, 1, 1], method)
        change_kinds(tmp_path / name, kinds)
    rows = [
        row
        for row in make_table(map(read_run, find_runs([tmp_path])), by_kind=True)
        if row["method"] == "DM"
    ]
    assert [(row["kind"], row["n"], row["score"]) for row in rows] == [
        ("all", 4, 0.75),
        ("mean of kinds", 4, pytest.approx(2.5 / 3)),
        ("'all'", 2, 0.5),
        ("'mean of kinds'", 1, 1.0),
        ("x", 1, 1.0),
    ]


def test_what_differs_gets_a_column(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [1], DM)
    assert not {"eta", "guidance", "weights"} & set(tabulate(tmp_path)[0])
    write_run(tmp_path, "b", [1], DM, eta=0.0)
    assert {row["eta"] for row in tabulate(tmp_path)} == {0.0, 1.0}


def test_what_is_counted_has_columns_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0, 0, 0], DM, counts=[(0, 0), (1, 0), (2, 0), (0, 1)])
    write_run(tmp_path, "asyn", [1, 1, 1], ASYNDM, first=1, counts=[(0, 0), (0, 0), (0, 1)])
    dm, asyn = tabulate(tmp_path)
    surplus = cluster_interval([0, 1, 2, 0], list("1234"))
    assert surplus.low < 0 == dm["surplus_per_image_low"]
    assert (dm["surplus_per_image"], dm["surplus_per_image_high"]) == (0.75, surplus.high)
    missing = wilson(1, 4)
    assert (dm["missing_per_image"], dm["missing_per_image_low"], dm["missing_per_image_high"]) == (
        0.25,
        missing.low,
        missing.high,
    )
    assert dm["surplus_difference"] is None
    difference = cluster_interval([-1, -2, 0], list("234"))
    assert (
        asyn["surplus_difference"],
        asyn["surplus_difference_low"],
        asyn["surplus_difference_high"],
    ) == (-1, difference.low, difference.high)
    assert asyn["missing_difference"] == 0 and asyn["wins"] == 3
    assert asyn["p_holm"] == asyn["p"], "counts are not among what is tested"


def test_counts_that_some_images_of_a_row_lack_are_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    assert not any("surplus" in name or "missing" in name for name in tabulate(tmp_path)[0])
    write_run(tmp_path, "asyn", [1, 1], ASYNDM, counts=[(1, 0), (0, 0)])
    dm, asyn = tabulate(tmp_path)
    assert dm["surplus_per_image"] is None and asyn["surplus_per_image"] == 0.5
    assert asyn["surplus_difference"] is None and asyn["difference"] == 0.5
    write_run(tmp_path, "dm", [1, 0], DM, counts=[(0, 0), (0, 0)])
    write_run(tmp_path, "more dm", [1, 0], DM, seed=1)
    write_run(tmp_path, "more asyn", [1, 1], ASYNDM, seed=1, counts=[(1, 0), (0, 0)])
    dm, asyn = tabulate(tmp_path)
    assert dm["surplus_per_image"] is None and asyn["surplus_per_image"] == 0.5
    assert (asyn["pairs"], asyn["surplus_difference"]) == (4, None)


def test_counts_have_rows_by_kind_as_scores_have(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0, 1], DM, counts=[(0, 0), (1, 0), (0, 0)])
    write_run(tmp_path, "asyn", [1, 0, 1], ASYNDM, counts=[(0, 1), (2, 0), (0, 0)])
    rows = make_table(map(read_run, find_runs([tmp_path])), by_kind=True)
    found = {row["kind"]: row for row in rows if row["method"] == "AsynDM"}
    assert {kind: row["surplus_per_image"] for kind, row in found.items()} == {
        "all": pytest.approx(2 / 3),
        "mean of kinds": 1,
        "one": 0,
        "two": 2,
    }
    assert (found["two"]["surplus_difference"], found["one"]["missing_difference"]) == (1, 0.5)
    assert found["mean of kinds"]["surplus_difference"] == 0.5


def test_p_values_are_corrected_over_the_table(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1.0] * 8, DM)
    write_run(tmp_path, "asyn", [0.0] * 8, ASYNDM)
    write_run(
        tmp_path,
        "asyn20",
        [0.0] * 7 + [1.0],
        ASYNDM | {"curve": {"_target_": "asyndm.curves.Linear"}},
    )
    tested = [row for row in tabulate(tmp_path) if row["p"] is not None]
    assert sorted(row["p"] for row in tested) == [2 / 256, 2 / 128]
    assert sorted(row["p_holm"] for row in tested) == [4 / 256, 4 / 256]


def test_a_lead_that_may_be_luck_is_not_bold(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [0.0, 1.0] * 20, DM)
    write_run(tmp_path, "asyn", [0.0, 1.0] * 19 + [1.0, 1.0], ASYNDM)
    rows = tabulate(tmp_path)
    assert not any(row["best"] for row in rows) and "**" not in to_markdown(rows)


def test_where_less_is_better_wins_arrows_and_bold_turn_around(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [0.9] * 30, DM)
    write_run(tmp_path, "asyn", [0.2 + i / 100 for i in range(29)] + [0.95], ASYNDM)
    basis = {"version": 3, "higher_is_better": False, "convention": "odd"}
    for name in ("dm", "asyn"):
        change_record(tmp_path / name, metrics={"exact": basis})
    runs = [read_run(f) for f in find_runs([tmp_path])]
    dm, asyn = make_table(runs)
    assert (asyn["wins"], asyn["ties"], asyn["losses"]) == (29, 0, 1)
    assert asyn["difference"] < 0 and asyn["best"] and not dm["best"]
    assert "exact ↓" in to_markdown([dm, asyn]) and r"exact $\downarrow$" in to_latex([dm, asyn])
    assert "exact: (lower is better, version 3, convention odd)" in write_notes([dm, asyn], runs)


def test_thresholds_get_a_column_where_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    runs = [read_run(f) for f in find_runs([tmp_path])]
    assert "threshold" not in make_table(runs)[0]
    write_run(tmp_path, "strict", [1, 1], {**ASYNDM, "mask": {**ASYNDM["mask"], "threshold": 2.0}})
    rows = tabulate(tmp_path)
    assert [row["threshold"] for row in rows] == ["", 1.0, 2.0]


def test_rows_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for scale in (10.0, 2.0, 7.5):
        write_run(
            tmp_path,
            f"g{scale}",
            [1, 0],
            DM,
            guidance={"guidance_scale": scale, "negative_prompt": None},
        )
    assert [row["guidance"] for row in tabulate(tmp_path)] == [
        "2",
        "7.5",
        "10",
    ]


def test_a_number_in_a_name_is_no_order(tmp_path: Path) -> None:
    for scale in (10.0, 2.0):
        guidance = {"_target_": "mine.Own", "guidance_scale": scale}
        write_run(tmp_path, f"g{scale}", [1, 0], DM, guidance=guidance)
    for name in ("9 lives", "10 green bottles"):
        choice = {"name": name}
        write_run(tmp_path, name, [1, 0], DM, prompt_set=choice, guidance={"guidance_scale": 2.0})
    rows = [(row["prompt_set"], row["guidance"]) for row in tabulate(tmp_path)]
    assert rows == [
        ("10 green bottles", "2"),
        ("9 lives", "2"),
        ("shapes", "Own 2"),
        ("shapes", "Own 10"),
    ]


def test_evaluations_stand_behind_the_steps_where_a_run_tells_them(tmp_path: Path) -> None:
    write_run(tmp_path, "dm", [1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    assert "evaluations" not in tabulate(tmp_path)[0]
    change_record(tmp_path / "asyn", evaluations={"rows": 40, "images": 2})
    rows = tabulate(tmp_path)
    assert [row["evaluations"] for row in rows] == [None, 20]
    names = list(rows[0])
    assert names.index("evaluations") == names.index("steps") + 1
    assert "| evaluations |" in to_markdown(rows) and ",20," in to_csv(rows).splitlines()[2]


def test_rows_backward_are_told_where_there_are_any(tmp_path: Path) -> None:
    told = {"rows": 30, "images": 2}
    write_run(tmp_path, "dm", [1, 0], DM, record={"evaluations": {**told, "backward": 0}})
    write_run(tmp_path, "asyn", [1, 1], ASYNDM, record={"evaluations": told})
    assert "backward" not in tabulate(tmp_path)[0]
    change_record(tmp_path / "asyn", evaluations={**told, "backward": 5})
    assert [(row["evaluations"], row["backward"]) for row in tabulate(tmp_path)] == [
        (15, 0),
        (15, 2.5),
    ]


def test_a_solver_is_a_column_and_a_condition_of_what_is_compared(tmp_path: Path) -> None:
    multistep = {"_target_": "asyndm.solvers.DPMSolverPlusPlus2M", "max_ratio": 2.0}
    write_run(tmp_path, "dm", [0, 0], DM)
    write_run(tmp_path, "asyn", [1, 1], ASYNDM)
    assert "solver" not in tabulate(tmp_path)[0]
    write_run(tmp_path, "dm-2m", [0, 0], DM, solver=multistep)
    write_run(tmp_path, "asyn-2m", [1, 1], ASYNDM, solver=multistep)
    assert [(row["method"], row["solver"], row["pairs"]) for row in tabulate(tmp_path)] == [
        ("DM", "ddim", None),
        ("AsynDM", "ddim", 2),
        ("DM", "dpmpp_2m", None),
        ("AsynDM", "dpmpp_2m", 2),
    ]
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    rows = make_table(runs, against=[("solver", "ddim"), ("eta", "1")])
    assert rows == make_table(runs, against=[("solver", "ddim"), ("eta", "1.0")])
    assert [row["pairs"] for row in rows if row["solver"] == "dpmpp_2m"] == [2, 2]


def test_rows_of_one_guidance_stand_together_in_the_order_of_their_scales(tmp_path: Path) -> None:
    for name in ("", "seg 3", "apg"):
        for scale in (10.0, 2.0):
            label = f"{name} {scale:g}".strip()
            given = {"guidance_scale": scale, "_target_": f"mine.{name}"}
            record = {"choices": {"guidance": {"label": label}}}
            write_run(tmp_path, f"run {label}", [0, 1], DM, record=record, guidance=given)
    told = [row["guidance"] for row in tabulate(tmp_path)]
    assert told == ["2", "10", "apg 2", "apg 10", "seg 3 2", "seg 3 10"]


def test_settings_that_a_label_does_not_tell_make_other_rows(tmp_path: Path) -> None:
    guidance = {"_target_": "mine.Fading", "guidance_scale": 5.0, "most": 2.0}
    solver = {"_target_": "mine.Leap"}
    record = {"choices": {"guidance": {"label": "fading 5"}, "solver": {"label": "leap"}}}
    for power, order in ((1.0, 1), (2.0, 1), (2.0, 2)):
        for name, method, right in (("dm", DM, order - 1), ("asyn", ASYNDM, 1)):
            chosen: dict[str, Any] = {
                "guidance": {**guidance, "power": power},
                "solver": {**solver, "order": order},
            }
            write_run(
                tmp_path, f"{name}{power}{order}", [right] * 2, method, record=record, **chosen
            )
    told = [(row["guidance"], row["solver"], row["difference"]) for row in tabulate(tmp_path)]
    assert told == [
        ("fading 5 power=1.0", "leap order=1", None),
        ("fading 5 power=1.0", "leap order=1", 1),
        ("fading 5 power=2.0", "leap order=1", None),
        ("fading 5 power=2.0", "leap order=1", 1),
        ("fading 5 power=2.0", "leap order=2", None),
        ("fading 5 power=2.0", "leap order=2", 0),
    ]


def write_rivals(folder: Path) -> None:
    """Plain guidance at 20 steps and another at 20 and 8, without and with a mask."""
    own: dict[str, Any] = {"_target_": "mine.Own", "guidance_scale": 5.0}
    for guidance in ({"guidance_scale": 5.0}, own):
        for name, method, right in (("DM", DM, 0.0), ("AsynDM", ASYNDM, 1.0)):
            for steps in (20, 8) if "_target_" in guidance else (20,):
                changes: dict[str, Any] = {"guidance": guidance, "num_inference_steps": steps}
                found = f"{name}{len(guidance)}{steps}"
                write_run(folder, found, [right, steps / 20], method, **changes)


def test_what_does_not_bend_is_a_reference_for_other_guidances_and_curves(tmp_path: Path) -> None:
    write_rivals(tmp_path)
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    usual = {(row["guidance"], row["method"], row["steps"]): row for row in make_table(runs)}
    assert usual["Own 5", "AsynDM", 20]["difference"] == 0.5, "from the same guidance under DM"
    against = [("method", "DM"), ("guidance", "5")]
    rows = {
        (row["guidance"], row["method"], row["steps"]): row["difference"]
        for row in make_table(runs, against=against)
    }
    assert rows == {
        ("5", "DM", 20): None,
        ("5", "AsynDM", 20): 0.5,
        ("Own 5", "DM", 8): None,
        ("Own 5", "AsynDM", 8): None,
        ("Own 5", "DM", 20): 0.0,
        ("Own 5", "AsynDM", 20): 0.5,
    }


def test_rows_of_other_steps_are_compared_where_steps_are_named(tmp_path: Path) -> None:
    write_rivals(tmp_path)
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    against = [("method", "DM"), ("guidance", "5"), ("steps", "20")]
    rows = make_table(runs, against=against)
    found = {(row["guidance"], row["method"], row["steps"]): row for row in rows}
    assert found["Own 5", "DM", 8]["difference"] == pytest.approx(-0.3)
    assert found["Own 5", "AsynDM", 8]["difference"] == pytest.approx(0.2)
    tested = [row for row in rows if row["p"] is not None]
    assert len(tested) == 5 and all(row["pairs"] == 2 for row in tested)
    assert [row["p_holm"] for row in tested] == holm([row["p"] for row in tested])


def test_a_reference_that_bends_is_one_of_its_own_curve(tmp_path: Path) -> None:
    write_run(tmp_path, "asyn", [1, 0], ASYNDM)
    write_run(tmp_path, "static", [1, 1], STATIC)
    write_run(tmp_path, "linear", [0, 0], make_method("StaticMask", "Linear", threshold=1.0))
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    rows = make_table(runs, against=[("method", "AsynDM")])
    assert [row["difference"] for row in rows if row["curve"] == "linear"] == [None]
    assert [row["difference"] for row in rows if row["curve"] == "quadratic"] == [None, 0.5]


def test_runs_of_one_row_that_differ_in_evaluations_have_their_mean(tmp_path: Path) -> None:
    for seed, rows in enumerate((40, 60)):
        told = {"evaluations": {"rows": rows, "images": 2}}
        write_run(tmp_path, f"{seed}", [1, 0], DM, seed=seed, record=told)
    write_run(tmp_path, "2", [1, 0], DM, seed=2)
    assert [(row["n"], row["evaluations"]) for row in tabulate(tmp_path)] == [(6, 25)]


def test_what_a_record_says_of_its_choices_is_what_a_table_says(tmp_path: Path) -> None:
    mine = {"mask": {"_target_": "mine.SteadyMask"}, "curve": {"_target_": "mine.SineWave"}}
    still = {"mask": {"_target_": "mine.StillMask"}, "curve": {"_target_": "mine.SineWave"}}
    write_run(tmp_path, "steady", [1, 1, 1], mine)
    write_run(tmp_path, "still", [0, 0, 1], still)
    assert [(row["method"], row["curve"], row["difference"]) for row in tabulate(tmp_path)] == [
        ("SteadyMask", "sine_wave", None),
        ("StillMask", "sine_wave", None),
    ], "an older record has the names of its classes"
    for name, bends in (("steady", True), ("still", False)):
        choices = {
            "mask": {"label": name, "bends": bends, "rehearses": False},
            "curve": {"label": "sine"},
            "guidance": {"label": "5"},
        }
        change_record(tmp_path / name, choices=choices)
    assert [(row["method"], row["curve"], row["difference"]) for row in tabulate(tmp_path)] == [
        ("still", "", None),
        ("steady", "sine", pytest.approx(2 / 3)),
    ], "what does not bend comes first, and differences are from it"


def test_the_librarys_methods_have_an_order(tmp_path: Path) -> None:
    names = "No Global Dynamic Static Things External Layout"
    masks = [f"{name}Mask" for name in names.split()]
    for mask in reversed(masks):
        write_run(tmp_path, mask, [1], make_method(mask, "Quadratic"))
    write_run(tmp_path, "mine", [1], {**ASYNDM, "mask": {"_target_": "mine.Aardvark"}})
    assert [row["method"] for row in tabulate(tmp_path)] == [*METHODS, "Aardvark"]
    assert METHODS[:3] == ("DM", "DM_concave", "AsynDM")
    assert METHODS[3:] == tuple(f"AsynDM_{name.lower()}" for name in names.split()[3:])
