"""What guidance says of itself; that it costs what it says is measured in
`tests.experiments.engine.test_cost`."""

from __future__ import annotations

from typing import Any

import pytest

from asyndm.guidance import ClassifierFree


@pytest.mark.parametrize(
    ("guidance", "label"),
    [
        (ClassifierFree(5.0), "5"),
        (ClassifierFree(1.5, "blurry"), "1.5 not 'blurry'"),
        (ClassifierFree(), ""),
        (ClassifierFree(None, "blurry"), "not 'blurry'"),
    ],
)
def test_its_label_is_what_is_set(guidance: ClassifierFree, label: str) -> None:
    assert guidance.label == label


@pytest.mark.parametrize(
    ("guidance", "guided", "arguments", "evaluations"),
    [
        (ClassifierFree(5.0), True, {}, 2),
        (ClassifierFree(1.0), True, {}, 1),
        (ClassifierFree(0.0), True, {}, 1),
        (ClassifierFree(None), True, {}, 2),
        (ClassifierFree(None), True, {"guidance_scale": 1.0}, 1),
        (ClassifierFree(5.0), True, {"guidance_scale": 1.0}, 2),
        (ClassifierFree(5.0), False, {}, 1),
        (ClassifierFree(None, "blurry"), False, {"true_cfg_scale": 4.0}, 2),
        (ClassifierFree(None), False, {"true_cfg_scale": 4.0, "negative_prompt": " "}, 2),
        (ClassifierFree(None), False, {"true_cfg_scale": 4.0}, 1),
        (ClassifierFree(None, "blurry"), False, {"true_cfg_scale": 1.0}, 1),
    ],
)
def test_it_costs_two_evaluations_a_step_where_it_leads_away_from_something(
    guidance: ClassifierFree, guided: bool, arguments: dict[str, Any], evaluations: int
) -> None:
    assert guidance.evaluations(guided, arguments) == evaluations


def test_it_is_off_where_nothing_leads_away_from_a_negative_prompt() -> None:
    assert ClassifierFree(1.0).is_off() and ClassifierFree(0.0).is_off()
    assert not ClassifierFree(5.0).is_off() and not ClassifierFree().is_off()
    assert not ClassifierFree(1.0).is_off(guided=False)
