"""A run is known by what can change a pixel or a score, and by nothing else."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import asyndm.solvers
from evaluation.runs.prompts import Prompt
from experiments.engine.plan import build_mask
from tests.experiments.engine import own_choices
from tests.experiments.engine.own_choices import is_same_run, plan_run
from tests.lab import Lab

ZIGZAG = f"guidance._target_={own_choices.__name__}.Zigzag"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mask=none curve=quadratic", "mask=none curve=exponential curve.concavity=0.9"),
        ("mask=none", "mask=dynamic curve=linear"),
        ("mask=none", "mask=dynamic mask.threshold=2 curve.concavity=0"),
        ("mask=none", "mask=global curve=piecewise_linear curve.concavity=0"),
        (
            "mask=global",
            "mask=global batch_size=3 tracker=wandb tracker.images=2 pictures=0",
        ),
        ("mask=none", "mask=none batch_invariant=false"),
        ("model.dtype=auto", "model.dtype=float32"),
        ("model.dtype=auto", "device=null model.device=cpu"),
        ("device=cuda", "device=cuda:1 model.dtype=float16"),
        ("model.dtype=float32", "device=cuda model.dtype=float32"),
        ("guidance=none", "guidance=cfg guidance.guidance_scale=1 guidance.negative_prompt=blur"),
        (f"{ZIGZAG} +guidance.strength=3", f"{ZIGZAG} +guidance.strength=3.0"),
        ("guidance=seg guidance.sigma=inf", "guidance=seg guidance.sigma=.inf"),
        ("guidance=seg", "guidance=seg guidance.sigma=.inf guidance.layers=null"),
        ("solver=dpmpp_2m solver.max_ratio=3", "solver=dpmpp_2m solver.max_ratio=3.0"),
        ("metric=none", "metric=exact"),
        ("prompt_set.limit=3", "limit=null"),
        ("mask=things", "mask=things mask_threshold=3"),
    ],
)
def test_what_cannot_matter_makes_no_other_run(lab: Lab, first: str, second: str) -> None:
    assert is_same_run(lab, first, second)


@pytest.mark.parametrize(
    "override",
    [
        "mask=none",
        "mask=global",
        "mask=static",
        "mask=planted",
        "mask.threshold=1.5",
        "mask.grow=1",
        "curve=exponential",
        "curve.concavity=0.6",
        "num_inference_steps=3",
        "eta=0",
        "seed=1",
        "images_per_prompt=2",
        "limit=2",
        "height=64",
        "width=64",
        "guidance.guidance_scale=3",
        "guidance.negative_prompt=blur",
        ZIGZAG,
        "solver=dpmpp_2m",
        "model.dtype=float16",
        "model.scheduler={timestep_spacing:trailing}",
        "device=cuda",
        "device=null model.device=cuda",
    ],
)
def test_what_can_matter_makes_another_run(lab: Lab, override: str) -> None:
    assert not is_same_run(lab, "", override)


@pytest.mark.parametrize(("gpu", "dtype"), [("cuda", "float16"), ("cpu", "float32")])
def test_on_any_device_the_dtype_is_that_of_the_device_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, gpu: str, dtype: str
) -> None:
    monkeypatch.setattr("asyndm.models.choose_device", lambda _: torch.device(gpu))
    assert plan_run(lab, "device=auto").identity["model"]["dtype"] == dtype


@pytest.mark.fault(
    what="another class of guidance, or another loader of the model",
    kind="settings that name no run",
    now="built, and another run",
)
@pytest.mark.parametrize(
    "override",
    [
        f"guidance._target_={own_choices.__name__}.Half",
        f"model._target_={own_choices.__name__}.load",
    ],
)
def test_another_class_is_another_run(lab: Lab, override: str) -> None:
    assert not is_same_run(lab, "", override)


def test_every_setting_of_a_guidance_and_of_a_solver_makes_another_run(lab: Lab) -> None:
    runs = [
        plan_run(lab, ZIGZAG),
        plan_run(lab, ZIGZAG, "+guidance.strength=3"),
        plan_run(lab, ZIGZAG, "+guidance.strength=inf"),
        plan_run(lab, ZIGZAG, "+guidance.zigzags=2"),
        plan_run(lab, ZIGZAG, "+guidance.zigzags=null"),
        plan_run(lab, ZIGZAG, "guidance.guidance_scale=3"),
        plan_run(lab, "solver=dpmpp_2m"),
        plan_run(lab, "solver=dpmpp_2m", "solver.max_ratio=3"),
        plan_run(lab, "solver=dpmpp_2m", "solver.max_ratio=null"),
    ]
    assert len({run.run_id for run in runs}) == len(runs)
    for run in runs:
        json.dumps([run.identity, run.config], allow_nan=False)  # what no JSON has, no record can
    built = [run.guidance for run in runs[:6]]
    assert [(g.zigzags, g.strength) for g in built if isinstance(g, own_choices.Zigzag)] == [
        (1, 2),
        (1, 3),
        (1, math.inf),
        (2, 2),
        (None, 2),
        (1, 2),
    ]
    assert runs[8].solver == asyndm.solvers.DPMSolverPlusPlus2M(None)


def test_the_usual_solver_is_no_part_of_what_a_run_is_known_by(lab: Lab) -> None:
    assert "solver" not in plan_run(lab).identity
    assert plan_run(lab).solver == asyndm.solvers.DDIM()
    assert plan_run(lab, "solver=heun").identity["solver"] == {"_target_": "asyndm.solvers.Heun"}


def test_subjects_matter_to_a_guidance_that_needs_them_under_every_mask(lab: Lab) -> None:
    path = lab.folder / "other.yaml"
    text = (lab.folder / "prompts.yaml").read_text()
    path.write_text(text.replace("[rabbit]", "[a rabbit]"))
    seeing = f"guidance._target_={own_choices.__name__}.Seeing"
    for guidance, same in (("guidance=cfg", True), (seeing, False)):
        usual = f"{guidance} mask=none"
        assert is_same_run(lab, usual, f"{usual} prompt_set.path={path}") == same
        assert is_same_run(lab, usual, f"{usual} attention_factor=2") == same
    assert plan_run(lab, seeing, "mask=none").prompts[0].subjects


def test_files_are_known_by_their_content(lab: Lab) -> None:
    before = plan_run(lab).run_id
    copy = lab.folder / "elsewhere"
    shutil.copytree(lab.pipeline, copy)
    shutil.copy(lab.folder / "prompts.yaml", lab.folder / "same.yml")
    assert (
        plan_run(lab, f"model.path={copy}", f"prompt_set.path={lab.folder / 'same.yml'}").run_id
        == before
    )
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert plan_run(lab, f"model.path={copy}").run_id != before
    (lab.folder / "same.yml").write_text("- {text: a red dog, subjects: [dog]}\n")
    assert plan_run(lab, f"prompt_set.path={lab.folder / 'same.yml'}").run_id != before


def test_a_mask_image_is_known_by_its_content(lab: Lab) -> None:
    for name, value in (("a", 0), ("b", 0), ("c", 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(lab.folder / f"{name}.png")
    a, b, c = (
        plan_run(lab, "mask=external", f"mask.image={lab.folder / name}.png").run_id
        for name in "abc"
    )
    assert a == b != c


def test_what_masks_could_not_always_do_is_told_where_it_is_done(lab: Lab) -> None:
    before = {"_target_": "asyndm.masks.DynamicMask", "threshold": 1.0}
    assert plan_run(lab).identity["mask"] == before
    plans = [
        plan_run(lab, "mask=things", *words)
        for words in ([], ["mask.grow=0"], ["mask.rehearsal_steps=1"], ["mask.next_best=false"])
    ]
    things = asyndm.ThingsMask()
    assert [plan.mask for plan in plans] == [
        things,
        replace(things, grow=0),
        replace(things, rehearsal_steps=1),
        replace(things, next_best=False),
    ]
    told = [set(plan.identity["mask"]) - set(before) for plan in plans]
    assert told == [set(), {"grow"}, {"rehearsal_steps"}, {"next_best"}]


def test_masks_by_subject_are_known_by_names_and_contents(lab: Lab) -> None:
    text = "- {text: a dog and a cat, subjects: [dog, cat]}\n"
    (lab.folder / "prompts.yaml").write_text(text)
    for name, value in (("a", 0), ("b", 0), ("c", 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(lab.folder / f"{name}.png")
    a, b, c, both = (
        plan_run(lab, "mask=external", f"mask.image={{{named.format(lab.folder)}}}")
        for named in (
            "dog: {}/a.png",
            "dog: {}/b.png",
            "cat: {}/a.png",
            "dog: {0}/a.png, cat: {0}/c.png",
        )
    )
    assert a.run_id == b.run_id and len({a.run_id, c.run_id, both.run_id}) == 3
    assert set(build_mask(both).image) == {"dog", "cat"}  # type: ignore[attr-defined]
    boxes = [
        plan_run(lab, "mask=layout", f"mask.boxes={{{box}}}").run_id
        for box in ("dog: [0, 0, 0.5, 1]", "dog: [0, 0, 0.6, 1]", "cat: [0, 0, 0.5, 1]")
    ]
    assert len(set(boxes)) == 3


def test_a_number_of_things_is_part_of_a_prompt_where_it_is_stated(lab: Lab) -> None:
    path = lab.folder / "prompts.yaml"
    path.write_text("- {text: two dogs, subjects: [dogs]}\n")
    bare = plan_run(lab)
    assert "count" not in bare.prompts[0].to_dict()["subjects"][0]
    path.write_text("- {text: two dogs, subjects: [dogs], subject_counts: [2]}\n")
    stated = plan_run(lab)
    assert stated.run_id != bare.run_id and stated.prompts[0].subjects[0].count == 2
    assert Prompt.from_dict(stated.prompts[0].to_dict()) == stated.prompts[0]


def test_concavities_of_subjects_matter_unless_no_pixel_is_on_the_curve(lab: Lab) -> None:
    path = lab.folder / "own.yaml"
    path.write_text("- {text: a red dog, subjects: [dog], concavities: [0.4]}\n")
    own = f"prompt_set.path={path}"
    bare = lab.folder / "bare.yaml"
    bare.write_text("- {text: a red dog, subjects: [dog]}\n")
    assert not is_same_run(lab, f"{own} curve.concavity=0", f"{own} mask=none")
    assert not is_same_run(lab, own, f"prompt_set.path={bare}")
    assert is_same_run(lab, f"{own} mask=none", f"prompt_set.path={bare} mask=none")


def test_shared_noise_is_another_run_and_known_as_before(lab: Lab) -> None:
    assert not is_same_run(lab, "noise=own", "noise=shared")
    assert "noise" not in plan_run(lab, "noise=shared").identity
