"""The planned differences: of the right methods and pairs, in one direction, corrected together."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.cells import Cell, collect_cells
from evaluation.choices import CONF
from evaluation.runs.folder import find_runs, read_run
from evaluation.statistics import holm, permutation_p
from experiments.engine.sweep import plan_sweep
from experiments.studies.planned import ARMS, Claim, format_plan, judge_claims
from experiments.studies.regions import CLAIMS, main
from tests.experiments.studies.arms import AHEAD, PLANTED, THINGS, write_arm
from tests.written_runs import ASYNDM, DM, make_method

PLAN = CONF.parent / "experiments" / "results" / "regions" / "plan.md"
NONE = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def write_all(root: Path) -> None:
    """All runs of the plan: of what has two sets of seeds both."""
    for model in ("shapes", "shapes_mixed"):
        for scale in (2.0, 5.0):
            for seed in (0, 7):
                write_arm(root, "none", NONE, DM, model, scale, seed=seed)
                write_arm(root, "none40", NONE[::-1], DM, model, scale, 40, seed)
                more = [(1, 0)] * 3 + [(0, 2)] * 3
                write_arm(root, "things", [1] * 6, THINGS, model, scale, seed=seed, counts=more)
            write_arm(root, "dynamic", [0, 0, 0, 0, 1, 1], ASYNDM, model, scale)
            write_arm(root, "planted", [1, 1, 1, 1, 1, 0], PLANTED, model, scale)
            write_arm(root, "ahead", [1, 0, 0, 0, 0, 0], AHEAD, model, scale)


def read(root: Path) -> list[Cell]:
    return collect_cells(read_run(folder) for folder in find_runs([root]))


def test_each_claim_is_of_its_own_methods_and_pairs(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = judge_claims(read(tmp_path), CLAIMS)
    assert [of.claim for of in found] == list(CLAIMS)
    by_name = {
        (of.claim.model, of.claim.guidance, of.claim.first, of.claim.second): of for of in found
    }
    things = by_name["shapes_mixed", 2, "things", "none"]
    assert things.pair.difference.n == 12 and things.pair.difference.mean == 4 / 6
    assert things.counts["surplus"] and things.counts["surplus"].mean == 0.5
    assert things.counts["missing"] and things.counts["missing"].mean == 1.0
    # four prompts of two pairs each differ, all to the same side
    assert things.p == 2.0**-4
    twice = by_name["shapes_mixed", 5, "things", "none at 2N"]
    assert (twice.pair.wins, twice.pair.losses) == (8, 0)
    slow = by_name["shapes_mixed", 2, "planted", "planted ahead"]
    assert slow.pair.difference.n == 6 and slow.pair.wins == 4 and slow.p == 2.0**-4
    lost = by_name["shapes_mixed", 5, "dynamic", "none"]
    assert lost.pair.difference.mean == 0 and lost.p == 1.0
    plain = by_name["shapes", 2, "planted", "none"]
    assert plain.p == plain.pair.p == permutation_p([1, 1, 0, 1, 0, 0], "abcdef")
    directed = [of for of in found if of.claim.sign]
    assert [of.p_holm for of in directed] == holm([of.p for of in directed])
    assert all(of.p_holm is None for of in found if not of.claim.sign) and len(directed) == 9


def test_a_difference_to_the_other_side_counts_for_nothing(tmp_path: Path) -> None:
    write_arm(tmp_path, "none", [1] * 6, DM)
    write_arm(tmp_path, "dynamic", NONE, ASYNDM)
    worse = Claim("shapes_mixed", 2, "dynamic", "none", -1, 6)
    found = judge_claims(read(tmp_path), [worse, replace(worse, sign=1), replace(worse, sign=0)])
    assert [of.p for of in found] == [2.0**-4, 1.0, 2.0**-3]
    assert [of.p_holm for of in found] == [2.0**-3, 1.0, None]


def test_the_command_tells_nothing_before_all_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arm(tmp_path / "runs", "none", NONE, DM)
    assert main([str(tmp_path / "runs")]) == 1
    said = capsys.readouterr()
    assert (
        not said.out and "no scored run of things on shapes_mixed at guidance 2; make" in said.err
    )
    write_all(tmp_path / "runs")
    files = [tmp_path / "planned.md", tmp_path / "planned.csv"]
    words = [str(tmp_path / "runs"), "--markdown", str(files[0]), "--csv", str(files[1])]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert files[0].read_text() == text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(CLAIMS) and "difference from the second [95 %]" in lines[0]
    assert "things > none at 2N" in lines[4] and "+0.667" in lines[4] and "8-4-0" in lines[4]
    assert "12 instead of 2,000" in text
    rows = list(csv.DictReader(files[1].open()))
    assert [row["expected"] for row in rows][8:10] == ["dynamic < none", "things = none"]
    assert float(rows[0]["p_planned"]) == 2.0**-4 and rows[-1]["p_holm"] == ""


def test_two_kinds_of_the_same_method_are_not_taken_for_one(tmp_path: Path) -> None:
    write_arm(tmp_path, "none", NONE, DM)
    write_arm(tmp_path, "dynamic", NONE, ASYNDM)
    write_arm(tmp_path, "other", NONE, make_method("DynamicMask", "Quadratic", 0.7, threshold=1.0))
    with pytest.raises(UserError, match="2 kinds of runs of dynamic on shapes_mixed at guidance 2"):
        judge_claims(read(tmp_path), [Claim("shapes_mixed", 2, "dynamic", "none", -1, 6)])


def test_the_plan_says_what_the_experiments_make(capsys: pytest.CaptureFixture[str]) -> None:
    assert format_plan(CLAIMS) in PLAN.read_text()
    assert main(["--plan"]) == 0 and capsys.readouterr().out == format_plan(CLAIMS)
    pairs: dict[tuple[str, float, str, str, int], int] = {}
    for name in ("regions", "regions_things", "regions_equal_cost"):
        for plan in plan_sweep([f"experiment={name}"]):
            ahead = "ahead=True" if plan.identity["mask"].get("ahead") else ""
            lent = "lent" if plan.identity["mask"].get("layout_of") else ""
            arm = (plan.mask.label, ahead or lent, plan.identity["num_inference_steps"])
            scale = plan.identity["guidance"]["guidance_scale"]
            key = (plan.config["model"]["name"], scale, *arm)
            pairs[key] = pairs.get(key, 0) + plan.image_count
    for claim in CLAIMS:
        arms = [ARMS[name] for name in (claim.first, claim.second)]
        made = [
            pairs[claim.model, claim.guidance, arm.method, arm.settings, arm.steps] for arm in arms
        ]
        assert min(made) == claim.pairs, claim
