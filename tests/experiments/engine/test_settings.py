"""Settings that do not exist or are out of their range are refused."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from asyndm.errors import UserError
from experiments.engine.settings import check_settings, find_device, read_pipeline_arguments
from tests.experiments.engine.test_schema import compose_config


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    composed = OmegaConf.to_container(compose_config(), resolve=True)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items() if key != "hydra"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_step": 5}, "^num_inference_step: no such setting .did you mean num_infer"),
        ({"eta": 1.5}, "^eta=1.5: must be between 0 and 1$"),
        ({"seed": 2**63 - 1, "images_per_prompt": 2}, "a seed beyond 2"),
        ({"shard": "4/3"}, "^shard=4/3: give K/N with K from 1 to N"),
        ({"output_dir": ""}, "^output_dir is empty"),
        ({"device": "gpu"}, "^device=gpu: choose from auto, cpu, cuda, cuda:N$"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    check_settings(config)
    with pytest.raises(UserError, match=message):
        check_settings(config | changes)


def test_the_device_asked_for_goes_before_that_of_the_model() -> None:
    own = {"model": {"device": "cuda:1"}, "device": None}
    assert find_device(own) == "cuda:1" and find_device(own | {"device": "cpu"}) == "cpu"


def test_arguments_of_the_pipeline_that_have_another_place_are_refused() -> None:
    assert read_pipeline_arguments({"pipeline_arguments": {"clip_skip": 1}}) == {"clip_skip": 1}
    assert read_pipeline_arguments({"pipeline_arguments": None}) == {}
    with pytest.raises(UserError, match="guidance_scale: say guidance.guidance_scale"):
        read_pipeline_arguments({"pipeline_arguments": {"guidance_scale": 3}})
    with pytest.raises(UserError, match="pipeline_arguments=3: give them by name"):
        read_pipeline_arguments({"pipeline_arguments": 3})
