"""What a guidance, a user's own as well, tells the sampler, the tables and the forecast."""

from __future__ import annotations

import re
from typing import Any

import pytest

import asyndm.solvers
from asyndm.errors import UserError
from asyndm.guidance import Cost
from evaluation.runs.row_files import warn_once
from experiments.engine.cost import estimate_cost, forecast_per_image
from experiments.engine.guidance import build_guidance, name_guidance, read_sampler_arguments
from experiments.engine.sampling import make_sample_arguments
from experiments.engine.sweep import plan_sweep
from experiments.run import main
from tests.experiments.engine import own_choices
from tests.experiments.engine.own_choices import Dear, Zigzag, plan_run
from tests.experiments.engine.test_schema import compose_config
from tests.lab import Lab

ZIGZAG = f"guidance._target_={own_choices.__name__}.Zigzag"
STATIC = "AsynDM_static-quadratic-0.5"
STEPS = {"DM": (3, 20, 40), "AsynDM_static": (3, 10, 20)}
"""With three steps, and within 40 rows, with and without guidance."""


def test_the_sampler_is_told_what_the_built_guidance_says(lab: Lab) -> None:
    own = plan_run(
        lab, f"guidance._target_={own_choices.__name__}.Half", "guidance.guidance_scale=4"
    )
    assert make_sample_arguments(own)["guidance_scale"] == 2
    assert "_target_" not in make_sample_arguments(own)
    assert make_sample_arguments(plan_run(lab, "guidance=none"))["guidance_scale"] == 1


@pytest.mark.fault(
    what="a guidance class whose guidance_scale is a class attribute, a property or a slot",
    kind="settings that are left out",
    now="the sampler is told it",
)
@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("Fixed", {}, {"guidance_scale": 3.0}),
        ("Doubled", {"guidance_scale": 4}, {"guidance_scale": 8, "negative_prompt": "blur"}),
        ("Slotted", {"guidance_scale": 4}, {"guidance_scale": 4}),
    ],
)
def test_guidance_says_its_scale_in_any_way(
    name: str, given: dict[str, Any], told: dict[str, Any]
) -> None:
    assert read_sampler_arguments({"_target_": f"{own_choices.__name__}.{name}", **given}) == told


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("Wordy", {}, "its guidance_scale is 'strong', which must be a number or None"),
        (
            "Slotted",
            {"guidance_scale": float("nan")},
            "its guidance_scale is nan, which must be a number or None",
        ),
        (
            "Slotted",
            {"guidance_scale": True},
            "its guidance_scale is True, which must be a number or None",
        ),
        ("Doubled", {"guidance_scale": None}, "TypeError: unsupported operand"),
        ("Broken", {}, "OSError: boom"),
    ],
)
def test_guidance_without_a_number_is_refused(
    name: str, given: dict[str, Any], message: str
) -> None:
    target = f"{own_choices.__name__}.{name}"
    with pytest.raises(UserError, match=re.escape(f"guidance._target_={target}: {message}")):
        read_sampler_arguments({"_target_": target, **given})


def test_guidance_of_ones_own_says_its_label_and_cost_or_has_the_usual_ones(lab: Lab) -> None:
    said = {"_target_": f"{own_choices.__name__}.Dear"}
    assert name_guidance(build_guidance(said), said) == "dear"
    assert read_sampler_arguments(said) == {"guidance_scale": 3.0}
    half = plan_run(
        lab, f"guidance._target_={own_choices.__name__}.Half", "guidance.guidance_scale=2"
    )
    assert half.choices["guidance"]["label"] == "Half 2"
    assert forecast_per_image(half) == Cost(lab.steps)  # half of 2 guides no more
    half = plan_run(
        lab, f"guidance._target_={own_choices.__name__}.Half", "guidance.guidance_scale=4"
    )
    assert forecast_per_image(half) == Cost(2 * lab.steps)
    object.__setattr__(half, "guidance", Dear())
    assert forecast_per_image(half) == Cost(5 * lab.steps)


def test_a_guidance_of_the_library_s_kind_is_handed_over(lab: Lab) -> None:
    target = f"guidance._target_={own_choices.__name__}"
    told = make_sample_arguments(
        plan_run(lab, f"{target}.Zigzag", "+guidance.strength=3", "guidance.negative_prompt=blur")
    )
    assert told["guidance"] == Zigzag(5, "blur", strength=3)
    assert (told["guidance_scale"], told["negative_prompt"]) == (5, "blur")
    assert not {"strength", "zigzags", "name", "solver"} & set(told)
    assert "guidance" not in make_sample_arguments(plan_run(lab))
    rescaled = make_sample_arguments(plan_run(lab, f"{target}.Rescaled"))
    assert (rescaled["guidance_scale"], rescaled["guidance_rescale"]) == (5, 0.7)
    told = make_sample_arguments(plan_run(lab, "solver=dpmpp_2m"))
    assert told["solver"] == asyndm.solvers.DPMSolverPlusPlus2M()


def test_a_guidance_of_the_library_s_kind_says_what_it_costs(lab: Lab) -> None:
    target = f"guidance._target_={own_choices.__name__}.Zigzag"
    settings = (target, "num_inference_steps=4", "+guidance.zigzags=2")
    for more, times in ((("mask=dynamic",), 1), (("mask=static",), 2)):
        assert forecast_per_image(plan_run(lab, *settings, *more)) == Cost(14, 4, False) * times
    heun = plan_run(lab, *settings, "mask=none", "solver=heun")
    assert forecast_per_image(heun) == Cost(2 * (5 + 5 + 2) + 2, 8, False)
    assert forecast_per_image(plan_run(lab, "mask=none", "solver=heun")) == Cost(2 * 2 + 2)
    assert str(estimate_cost([heun])) == (
        "1 run, 3 images, at most 78 network evaluations and 24 backward"
    )


def test_a_setting_that_a_guidance_does_not_have_is_refused_by_name(lab: Lab) -> None:
    target = f"guidance._target_={own_choices.__name__}.Zigzag"
    with pytest.raises(UserError, match=r"guidance\.strenght: no such setting of Zigzag \(did you"):
        plan_run(lab, target, "+guidance.strenght=3")
    with pytest.raises(UserError, match=r"guidance\.strength=nan: must be a number"):
        plan_run(lab, target, "+guidance.strength=nan")


@pytest.mark.parametrize(
    ("settings", "rows", "steps"),
    [
        (["mask=none"], 40, 20),
        (["mask=none"], 41, 20),
        (["mask=none", "guidance=none"], 40, 40),
        (["mask=static"], 40, 10),
        (["mask=none", "solver=heun"], 40, 10),
        (["mask=none", ZIGZAG], 40, 16),  # 7 more in the first step, of which two are backward
        (["mask=none", ZIGZAG, "+guidance.zigzags=null"], 40, 20),
        (["mask=none", ZIGZAG], 3, 1),
        (["mask=none", "model.guided=false"], 40, 40),
    ],
)
def test_steps_within_a_number_of_rows_are_the_most_that_cost_no_more(
    lab: Lab, settings: list[str], rows: int, steps: int
) -> None:
    plan = plan_run(lab, *settings, f"num_inference_steps=${{steps_within:{rows}}}")
    assert plan.identity["num_inference_steps"] == steps
    assert plan.run_id == plan_run(lab, *settings, f"num_inference_steps={steps}").run_id


def test_each_job_of_a_sweep_finds_its_own_steps(lab: Lab) -> None:
    swept = ["mask=none,static", "num_inference_steps=3,${steps_within:40}", "guidance=cfg,none"]
    plans = plan_sweep(lab.arguments(*swept))
    found = {(plan.mask.label, plan.identity["num_inference_steps"]) for plan in plans}
    assert found == {(m, n) for m, of in STEPS.items() for n in of}
    shown = lab("-m", "--dry-run", *swept).out
    assert shown.count("\n") == len(plans) + 1


@pytest.mark.parametrize("escape", ["", "\\"])
def test_an_experiment_may_ask_for_equal_cost(lab: Lab, escape: str) -> None:
    choice = lab.folder / "conf" / "experiment" / "equal.yaml"
    choice.parent.mkdir(parents=True)
    steps = f"num_inference_steps: 3,{escape}${{steps_within:40}}"
    choice.write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        f"      mask: none,static\n      {steps}\n"
    )
    words = [w for w in lab.arguments() if not w.startswith("num_inference_steps")]
    status = main(
        ["--config-dir", str(lab.folder / "conf"), "experiment=equal", "--dry-run", *words]
    )
    shown = lab.read_output()
    assert status == 0, shown
    labels = re.findall(r"^folder-(\S+)-(\d+)  ", shown, re.MULTILINE)
    assert sorted(labels) == sorted([("DM", "3"), ("DM", "20"), (STATIC, "3"), (STATIC, "10")])


@pytest.mark.parametrize(("rows", "warned"), [(3, True), (9, False)])
def test_a_single_step_that_costs_more_is_made_with_a_warning(
    lab: Lab, rows: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    plan = plan_run(lab, "mask=none", ZIGZAG, f"num_inference_steps=${{steps_within:{rows}}}")
    assert plan.identity["num_inference_steps"] == 1
    said = (
        f"warning: num_inference_steps=${{steps_within:{rows}}}: a single step of guidance=cfg can "
        "cost 9 rows, and is made all the same; give as many\n"
    )
    assert capsys.readouterr().err == (said if warned else "")


@pytest.mark.parametrize("rows", ["0", "many", "-3", "[1]", "", "4,5"])
def test_steps_within_no_number_are_refused(lab: Lab, rows: str) -> None:
    with pytest.raises(UserError, match=r"^num_inference_steps=\$\{steps_within:.*give a number"):
        plan_run(lab, f"num_inference_steps=${{steps_within:{rows}}}")


def test_a_recommendation_follows_the_model() -> None:
    for model, scale in (("sdxl", 5.5), ("sd15", 4), ("shapes", 4), ("sd21_base", 3)):
        config = compose_config(f"model={model}")
        config.guidance.guidance_scale = "${for_model:{sdxl:5.5,sd21:3,sd21_b:9},4}"
        assert config.guidance.guidance_scale == scale
