"""The laboratory's command line on a tiny pipeline, and pictures of the shapes world, for the tests
that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from experiments.run import main
from tests.lab import PROMPTS, Lab, lab, pipeline_folder

if TYPE_CHECKING:
    from pathlib import Path

    from experiments.training.evaluators.pictures import Pool

__all__ = ["lab", "pipeline_folder", "pool", "sampled"]


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Twelve pictures of each kind of test prompt."""
    from experiments.training.evaluators.pictures import draw_test_pool

    return draw_test_pool(12, seed=5)


@pytest.fixture(scope="session")
def sampled(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Nine runs that no test changes: DM, DM_concave and AsynDM with two, three and five steps,
    scored by their brightness."""
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "prompts.yaml").write_text(PROMPTS)
    made = Lab(folder, pipeline_folder)
    brightness = "+metric.brightness._target_=tests.experiments.metrics.Brightness"
    sweep = ["mask=none,global,dynamic", "num_inference_steps=2,3,5", brightness]
    assert main(made.arguments("-m", *sweep)) == 0
    return made
