"""For several tests of the harness: the laboratory's command line on a tiny pipeline, and small
networks of random weights, made once."""

from pathlib import Path

import pytest

from tests.lab import lab, pipeline_folder

__all__ = ["clip", "lab", "pipeline_folder", "qwen"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP with features of 8 dimensions, as open_clip keeps one."""
    from tests.evaluation.metrics.small_clip import make_clip

    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Qwen2.5-VL, as transformers keeps one."""
    from tests.evaluation.metrics.small_qwen import make_qwen

    return make_qwen(tmp_path_factory.mktemp("qwen"))
