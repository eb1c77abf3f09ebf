"""What the gallery of a page lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.runs.folder import read_run
from experiments.report.page import write_page
from tests.experiments.report.pages import read_data, write_data
from tests.written_runs import ASYNDM, DM, Made, change_record, write_pictures


def test_one_card_for_a_prompt_and_seed_with_all_methods(tmp_path: Path) -> None:
    seeds = [Made("a dog", seed=s, scores={"exact": float(s), "clip": 0.25 + s}) for s in (0, 1)]
    plain = write_pictures(tmp_path / "a", DM, seeds)
    other = write_pictures(
        tmp_path / "b", ASYNDM, [Made("a dog", scores={"exact": 0.0, "clip": 0.123456789})]
    )
    data = write_data(tmp_path / "page", other, plain)
    assert data["methods"] == [["DM", ""], ["AsynDM", "quadratic ω 0.5"]]
    assert data["metrics"] == [["exact", True, False], ["clip", False, False]]
    assert data["prompts"] == [["a dog", "one"]]
    (_, seed, _, cells), (_, next_seed, _, next_cells) = data["cards"]
    assert (seed, next_seed) == (0, 1)
    assert [cell[0] for cell in cells] == [0, 1]
    assert [cell[3] for cell in cells] == [[0, 0.25], [0, 0.123457]]
    assert [data["reasons"][cell[4][0]] for cell in cells] == ["exact: no dog"] * 2
    assert next_cells[0][3] == [1, 1.25] and next_cells[1] == [1], "AsynDM has no image of seed 1"
    names = [data["pictures"][cell[1]][0] for cell in (*cells, next_cells[0])]
    rows = [plain.images[0], other.images[0], plain.images[1]]
    assert names == [f"pictures/{row.sha256[:16]}.png" for row in rows]


def test_what_a_metric_counts_stands_behind_it(tmp_path: Path) -> None:
    plain = write_pictures(tmp_path / "a", DM, [Made("a dog", scores={"exact": 1.0, "clip": 0.5})])
    counted = write_pictures(
        tmp_path / "b",
        ASYNDM,
        [Made("a dog", scores={"exact": 0.0, "clip": 0.5}, counts={"exact": (0, 2)})],
    )
    data = write_data(tmp_path / "page", plain, counted)
    assert data["metrics"] == [
        ["exact", True, False],
        ["exact_surplus", False, True],
        ["exact_missing", False, True],
        ["clip", False, False],
    ]
    ((*_, (older, newer)),) = data["cards"]
    assert older[3] == [1, None, None, 0.5] and newer[3] == [0, 0, 2, 0.5]
    assert [data["reasons"][reason] for reason in newer[4]] == ["exact: no dog", "", "", ""]


def test_other_conditions_are_other_cards(tmp_path: Path) -> None:
    runs = [
        write_pictures(tmp_path / f"{steps}", DM, [Made("a dog")], num_inference_steps=steps)
        for steps in (10, 20)
    ]
    data = write_data(tmp_path / "page", *runs)
    assert data["fields"] == ["steps"] and data["conditions"] == [["10"], ["20"]]
    assert [(card[2], len(card[3])) for card in data["cards"]] == [(0, 1), (1, 1)]


def test_runs_that_differ_only_in_their_subjects_are_two_methods(tmp_path: Path) -> None:
    runs = [
        write_pictures(tmp_path / name, ASYNDM, [Made("a dog")], own_concavity=own)
        for name, own in (("a", 0.2), ("b", 0.7))
    ]
    data = write_data(tmp_path / "page", *runs)
    assert len(data["cards"]) == 1 and len(data["cards"][0][3]) == 2
    assert len({detail for _, detail in data["methods"]}) == 2
    assert all("subjects=" in detail for _, detail in data["methods"])


def test_subjects_whose_name_looks_like_a_digest_are_a_choice_of_subjects(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", ASYNDM, [Made("a dog")])
    config = {**read_run(tmp_path / "a").record["config"], "subjects": {"name": "decade"}}
    change_record(tmp_path / "a", config=config)
    data = write_data(tmp_path / "page", read_run(tmp_path / "a"))
    assert data["methods"] == [["AsynDM", "quadratic ω 0.5 subjects=decade"]]
    assert len(data["cards"]) == 1


def test_a_metric_of_which_less_is_better_says_so(tmp_path: Path) -> None:
    run = write_pictures(
        tmp_path / "a",
        DM,
        [Made("a dog", scores={"loss": 2.0})],
        metrics={"loss": {"higher_is_better": False}},
    )
    assert write_data(tmp_path / "page", run)["metrics"] == [["loss", False, True]]


@pytest.mark.fault(
    what="control characters in prompts, kinds, subjects and reasons that a page shows",
    kind="texts of files that reorder what is read",
    now="are spelled out on its cards",
)
def test_control_characters_are_spelled_out_on_cards(tmp_path: Path) -> None:
    code = "\x1b[31m\u202e"
    run = write_pictures(
        tmp_path / "a", ASYNDM, [Made(f"a {code} dog", kind=code, scores={code: 0.0})]
    )
    run = replace(run, images=[replace(image, subjects=(code,)) for image in run.images])
    page = write_page(tmp_path / "page", code, [], [], [run])
    plain = r"\x1b[31m\u202e"
    data = read_data(page)
    assert data["prompts"] == [[f"a {plain} dog", plain]] and data["subjects"] == [[plain]]
    assert data["metrics"][0][0] == plain and data["reasons"] == ["", f"{plain}: no dog"]
    assert not set(code[:1] + code[-1:]) & set(page.read_text())
