from __future__ import annotations

from pathlib import Path

import pytest

from .reference import Reference

SHIPPED = Path(__file__).parent / "data"


def _folder(config: pytest.Config) -> Path:
    chosen = config.getoption("--parity-dir")
    return SHIPPED if chosen is None else Path(chosen)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_id" in metafunc.fixturenames:
        metafunc.parametrize("case_id", Reference(_folder(metafunc.config)).case_ids)


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(_folder(request.config))
