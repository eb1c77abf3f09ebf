"""What a guidance, a user's own as well, tells the sampler, the tables and the forecast."""

from __future__ import annotations

import re
from typing import Any

import pytest

from asyndm.errors import UserError
from experiments.engine.cost import forecast_per_image
from experiments.engine.guidance import build_guidance, name_guidance, read_sampler_arguments
from experiments.engine.sampling import make_sample_arguments
from tests.experiments.engine import own_choices
from tests.experiments.engine.own_choices import Dear, plan_run
from tests.lab import Lab


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
    assert forecast_per_image(half) == lab.steps  # half of 2 guides no more
    half = plan_run(
        lab, f"guidance._target_={own_choices.__name__}.Half", "guidance.guidance_scale=4"
    )
    assert forecast_per_image(half) == 2 * lab.steps
    object.__setattr__(half, "guidance", Dear())
    assert forecast_per_image(half) == 5 * lab.steps
