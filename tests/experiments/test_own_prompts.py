"""Prompts with a seed, a negative prompt or a length of their own, from their file to the picture
and back."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.labels import read_labels
from evaluation.runs import row_files
from evaluation.runs.folder import PROMPTS_FILE, read_prompts, read_run
from evaluation.runs.prompts import Prompt
from experiments.engine.manifest import MANIFEST_VARIABLE
from experiments.engine.plan import Plan, make_plan
from experiments.engine.preflight import check_negative_prompts, warn_without_effect
from tests.experiments.engine.test_schema import compose_config
from tests.lab import Lab
from tests.pipelines.registry import PIPELINES

FLUX = ["model.path=a/b", "model.dtype=float32", "metric=none", "device=cpu"]
ROWS = """\
text,seed,negative_prompt
a red dog,7,
a red dog,,a cat
a rabbit,,
"""


def plan_run(lab: Lab, *overrides: str) -> Plan:
    return make_plan(compose_config(*lab.arguments(*overrides)))


def read_pixels(folder: Path) -> list[bytes]:
    """Of each picture of a run, in the order of its prompts."""
    found = []
    for row in read_run(folder).images:
        with Image.open(folder / row.file) as image:
            found.append(np.asarray(image).tobytes())
    return found


@pytest.mark.fault(
    what="a list with a negative prompt and a seed in some rows",
    kind="lists as people have them",
    now="each row is drawn with its own, the others with the run's",
)
def test_a_seed_and_a_negative_prompt_of_a_row_are_those_of_its_picture(lab: Lab) -> None:
    (lab.folder / "own.csv").write_text(ROWS)
    (lab.folder / "plain.txt").write_text("a red dog\na rabbit\n")

    def drawn(name: str, *overrides: str) -> list[bytes]:
        folder = lab.folder / f"{name}-{len(overrides)}"
        path = f"prompt_set.path={lab.folder / name}"
        assert lab(path, "mask=none", f"output_dir={folder}", *overrides).status == 0
        (run,) = folder.glob("*-DM-*")
        return read_pixels(run)

    dog_7, not_a_cat, rabbit = drawn("own.csv")
    assert drawn("plain.txt", "seed=7", "noise=shared", "limit=1") == [dog_7]
    assert drawn("plain.txt", "guidance.negative_prompt=a cat")[0] == not_a_cat
    assert drawn("plain.txt")[1] == rabbit
    default = drawn("own.csv", "guidance.negative_prompt=a rabbit")
    assert default[1] == not_a_cat and default[0] != dog_7 and default[2] != rabbit


def test_what_rows_have_of_their_own_makes_another_run_and_comes_back_from_its_folder(
    lab: Lab,
) -> None:
    def run(rows: str, *overrides: str) -> Plan:
        (lab.folder / "own.yaml").write_text(rows)
        return plan_run(lab, f"prompt_set.path={lab.folder / 'own.yaml'}", *overrides)

    plain = run("- {text: a dog, id: dog}\n")
    seeded = run("- {text: a dog, id: dog, seed: 7}\n", "images_per_prompt=2")
    led = run("- {text: a dog, id: dog, negative_prompt: a cat}\n")
    assert len({plain.run_id, seeded.run_id, led.run_id}) == 3
    assert [item.seed for item in seeded.items] == [7, 8]
    assert "negative_prompts" in led.identity and "negative_prompts" not in seeded.identity
    unled = run("- {text: a dog, id: dog, negative_prompt: a cat}\n", "guidance=none")
    assert unled.run_id == run("- {text: a dog, id: dog}\n", "guidance=none").run_id
    assert unled.prompts[0].negative_prompt is None
    for each in (seeded, led):
        (prompt,) = each.prompts
        assert Prompt.from_dict(json.loads(json.dumps(prompt.to_dict()))) == prompt


@pytest.mark.fault(
    what="negative prompts, of rows or of guidance, where guidance is off",
    kind="settings without effect",
    now="one line of warning a run or sweep",
)
def test_negative_prompts_without_effect_are_told_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.folder / "own.csv").write_text(ROWS)
    own = f"prompt_set.path={lab.folder / 'own.csv'}"
    said = lab("-m", own, "guidance.guidance_scale=1,5", "mask=none,global", "--dry-run").error
    assert (
        said.count("warning: ") == 1
        and "own.csv: the negative prompts of prompt_set: without effect" in said
    )
    said = lab("guidance=none", "guidance.negative_prompt=a cat", "--dry-run").error
    assert (
        said.count("warning: guidance.negative_prompt: without effect where guidance is off") == 1
    )
    (lab.folder / "planned.json").write_text("[]")
    monkeypatch.setenv(MANIFEST_VARIABLE, str(lab.folder / "planned.json"))
    row_files.warn_once.cache_clear()
    warn_without_effect(plan_run(lab, own, "guidance=none"))
    assert lab.read_output() == ""


def test_what_a_guidance_does_not_do_is_told_once_where_it_is_planned(lab: Lab) -> None:
    settings = ("guidance=z_sampling", "num_inference_steps=1", "mask=none", "limit=1")
    line = "warning: guidance=z_sampling makes no zigzag in a single step"
    for words in (("-m", *settings, "--dry-run"), settings):
        row_files.warn_once.cache_clear()
        assert lab(*words).lines == [line]


@pytest.mark.fault(
    what="as many steps as a budget allows, where prompts have negative prompts of their own",
    kind="wrong results in silence",
    now="a warning that says what a picture costs",
)
def test_a_budget_that_prompts_do_not_keep_is_told(lab: Lab) -> None:
    (lab.folder / "own.yaml").write_text("- {text: a dog, id: dog, negative_prompt: a cat}\n")
    settings = (
        f"prompt_set.path={lab.folder / 'own.yaml'}",
        "model.guided=false",
        "mask=none",
        "num_inference_steps=${steps_within:20}",
        "pipeline_arguments={true_cfg_scale: 4}",
    )
    row_files.warn_once.cache_clear()
    plan = plan_run(lab, *settings)
    assert plan.identity["num_inference_steps"] == 20
    said = lab.read_output()
    assert "num_inference_steps=${steps_within:20}: a picture is forecast to cost 40 rows" in said


def test_prompts_without_anything_of_their_own_are_kept_and_known_as_they_were(lab: Lab) -> None:
    prompt = Prompt("dog", "a dog")
    before = {"prompt_id": "dog", "text": "a dog", "subjects": [], "kind": "", "phrases": []}
    assert prompt.to_dict() == {**before, "subjects": (), "phrases": ()}
    (lab.folder / PROMPTS_FILE).write_text(json.dumps([before]))
    assert read_prompts(lab.folder / PROMPTS_FILE) == {"dog": prompt}
    (lab.folder / "dog.yaml").write_text("- {text: a dog, id: dog}\n")
    known = plan_run(lab, f"prompt_set.path={lab.folder / 'dog.yaml'}").identity["prompts"]
    assert known == hashlib.sha256(json.dumps([before]).encode()).hexdigest()[:16]


def test_runs_with_other_negative_prompts_are_other_rows_of_a_table(lab: Lab) -> None:
    told = []
    for negative in ("a cat", "a rabbit"):
        (lab.folder / "own.yaml").write_text(f"- {{text: a dog, negative_prompt: {negative}}}\n")
        own = [f"prompt_set.path={lab.folder / 'own.yaml'}", "mask=none", "num_inference_steps=1"]
        assert lab(*own).status == 0
        (run,) = [read_run(f) for f in lab.runs.glob(f"*-{plan_run(lab, *own).run_id}")]
        told.append(read_labels(run)["guidance"])
        assert next(iter(run.prompts.values())).negative_prompt == negative
    assert told[0] != told[1] and all("negative_prompts=" in label for label in told)


@pytest.mark.parametrize(
    ("model", "tiny", "more", "message"),
    [
        (
            "flux_dev",
            "flux",
            [],
            "its negative prompt: FluxPipeline reads none while true_cfg_scale is 1;",
        ),
        (
            "flux_schnell",
            "flux_schnell",
            [],
            "FluxPipeline reads none while true_cfg_scale is 1; leave it",
        ),
        ("flux_dev", "flux", ["+pipeline_arguments.true_cfg_scale=4"], None),
        (
            "flux2_dev",
            "flux2",
            [],
            "prompt a-dog-.*: its negative prompt: Flux2Pipeline takes none",
        ),
    ],
)
def test_a_pipeline_that_reads_no_negative_prompt_refuses_those_of_rows(
    tmp_path: Path, model: str, tiny: str, more: list[str], message: str | None
) -> None:
    (tmp_path / "own.csv").write_text("prompt,negative_prompt\na dog,\na dog and a cat,a rabbit\n")
    words = [
        f"model={model}",
        *FLUX,
        "prompt_set=file",
        f"prompt_set.path={tmp_path / 'own.csv'}",
        *more,
    ]
    made = make_plan(compose_config(*words))
    pipe: Any = PIPELINES[tiny].build()
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_negative_prompts(made, pipe, made.identity["pipeline_arguments"])


def test_a_number_told_to_a_distilled_network_drops_no_negative_prompt(lab: Lab) -> None:
    words = ["model=flux_schnell", *FLUX, "prompt_set=file", "guidance.negative_prompt=a cat"]
    made = make_plan(compose_config(*words, f"prompt_set.path={lab.folder / 'prompts.yaml'}"))
    assert made.identity["guidance"] == {"guidance_scale": 0.0, "negative_prompt": "a cat"}
    assert made.without_effect == ""


@pytest.mark.fault(
    what="a prompt of 140,000 characters",
    kind="lists as people have them",
    now="its run is made, and read back as it is",
)
def test_a_prompt_longer_than_a_cell_of_csv_may_be_is_drawn_and_read_back(lab: Lab) -> None:
    text = "a dog " + "x" * 140_000
    (lab.folder / "long.txt").write_text(text + "\n")
    words = [f"prompt_set.path={lab.folder / 'long.txt'}", "mask=none", "num_inference_steps=1"]
    assert lab(*words).status == 0
    assert read_run(lab.only_run()).images[0].prompt == text
    assert "found" in lab(*words).out
