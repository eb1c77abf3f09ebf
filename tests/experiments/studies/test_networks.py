"""The plan of experiment=networks: of networks that are trained, pairs that are made, and questions
each corrected on its own."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from asyndm.shapes.model import WEIGHTS
from evaluation.choices import CONF
from evaluation.statistics import holm
from experiments.engine.resolvers import name_checkpoint
from experiments.engine.sweep import plan_sweep
from experiments.studies.networks import QUESTIONS, main
from experiments.studies.planned import ARMS, format_plan
from experiments.training.shapes.settings import register
from tests.experiments.studies.arms import AHEAD, ANOTHER, PLANTED, THINGS, write_arm
from tests.written_runs import ASYNDM, DM, STATIC

PLAN = CONF.parent / "experiments" / "results" / "networks" / "plan.md"
NONE = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
CLAIMS = [claim for claims in QUESTIONS.values() for claim in claims]


def test_the_plan_has_the_claims_of_each_question() -> None:
    text = PLAN.read_text()
    assert all(question in text for question in QUESTIONS)
    assert all(format_plan(claims) in text for claims in QUESTIONS.values())


def test_its_networks_are_those_that_are_trained() -> None:
    register()
    trained: set[str] = set()
    for name in ("free", "again", "minutes"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            trained |= set(compose("train_shapes", [f"training={name}"]).branches)
    assert {claim.model for claim in CLAIMS} == trained


def test_the_experiment_makes_the_pairs_of_every_method(tmp_path: Path) -> None:
    (tmp_path / "free_again").symlink_to(WEIGHTS / "shapes")
    made = {}
    for plan in plan_sweep(["experiment=networks", f"model.path={tmp_path / 'free_again'}"]):
        of = plan.identity
        assert plan.config["model"]["name"] == "free_again" and of["seed"] == 200000
        assert of["guidance"]["guidance_scale"] == 2
        told = {key: of["mask"][key] for key in ("ahead", "layout_of") if key in of["mask"]}
        settings = " ".join(f"{key}={value}" for key, value in told.items())
        made[plan.mask.label, settings, of["num_inference_steps"]] = plan.image_count
    for claim in CLAIMS:
        for arm in (ARMS[claim.first], ARMS[claim.second]):
            assert made[arm.method, arm.settings, arm.steps] == claim.pairs, claim


@pytest.mark.parametrize(
    ("path", "lora", "name"),
    [
        ("out/shapes_free/", None, "shapes_free"),
        ("org/model-1.5", None, "model-1.5"),
        ("weights/shapes", "out/lora_1min", "lora_1min"),
        ("one.safetensors", None, "one"),
    ],
)
def test_a_checkpoint_is_called_by_where_it_lies_or_by_its_lora(
    path: str, lora: str | None, name: str
) -> None:
    assert name_checkpoint(path, lora) == name


def test_each_question_is_corrected_on_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, table = tmp_path / "runs", tmp_path / "planned.csv"
    for model in {claim.model for claim in CLAIMS}:
        write_arm(runs, "none", NONE, DM, model)
        write_arm(runs, "dynamic", [0, 0, 0, 0, 1, 1], ASYNDM, model)
        write_arm(runs, "static", [1, 1, 1, 0, 1, 0], STATIC, model)
        write_arm(runs, "things", [1] * 6, THINGS, model)
        write_arm(runs, "planted", [1, 1, 1, 1, 1, 0], PLANTED, model)
        write_arm(runs, "ahead", [1, 0, 0, 0, 0, 0], AHEAD, model)
        write_arm(runs, "another", [0] * 6, ANOTHER, model)
    assert main([str(runs), "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert [f"**{question}**" in said for question in QUESTIONS] == [True] * 3
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == len(CLAIMS)
    for claims in QUESTIONS.values():
        of, rows = rows[: len(claims)], rows[len(claims) :]
        told = [row for row, claim in zip(of, claims, strict=True) if claim.sign]
        assert [float(row["p_holm"]) for row in told] == pytest.approx(
            holm([float(row["p_planned"]) for row in told])
        )
    another = [line for line in said.splitlines() if "| planted another = none" in line]
    assert len(another) == 2 and all("-0.333" in line and "0-4-2" in line for line in another)
