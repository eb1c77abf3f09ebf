"""The tiny Stable Diffusion of ``tests.conftest``, saved once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import make_pipeline


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder: who changes a checkpoint makes a copy."""
    folder = tmp_path_factory.mktemp("whole")
    make_pipeline().save_pretrained(folder)
    return folder
