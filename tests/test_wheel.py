"""What a user gets from the wheel: the library with its weights, and nothing of the laboratory."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return set(zipfile.ZipFile(wheel).namelist())


def test_holds_the_library_alone(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "asyndm" in tops
    assert next(top for top in tops if top != "asyndm").endswith(".dist-info")


def test_is_typed_and_has_every_file_of_both_checkpoints(names: set[str]) -> None:
    weights = ROOT / "src/asyndm/shapes/weights"
    files = {f"asyndm/shapes/weights/{path.relative_to(weights)}" for path in weights.rglob("*.*")}
    assert "asyndm/py.typed" in names
    assert files and files <= names
    assert sum(name.endswith(".safetensors") for name in names) == 6
