"""What a user gets from the wheel: the library with its weights, and nothing of the laboratory."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def versions() -> dict[str, str]:
    """What is pinned, by name."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {name.lower().replace("_", "-"): version for name, version in pinned.items()}


@pytest.fixture(scope="module")
def names(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


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


def test_asks_for_what_the_library_needs_within_bounds(
    wheel: zipfile.ZipFile, names: set[str]
) -> None:
    (file,) = [name for name in names if name.endswith("/METADATA")]
    metadata = Parser().parsestr(wheel.read(file).decode())
    assert metadata.get_all("Provides-Extra") == ["checker", "lora"]
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    library = {requirement.name for requirement in needed if requirement.marker is None}
    assert {"torch", "diffusers", "transformers"} <= library and len(library) == 10
    assert {requirement.name for requirement in needed} - library == {"scipy", "peft"}
    for requirement in needed:
        assert [bound.operator for bound in sorted(requirement.specifier, key=str)] == [
            "<",
            ">=",
        ], requirement


@pytest.mark.fault(
    what="versions that load a network as random numbers (transformers 5.0 to 5.5)",
    kind="bounds that nobody ran",
    now="not installed: the library's lower bounds are run by `make test-oldest`, a "
    "checkout's are what is pinned",
)
def test_bounds_end_with_what_is_run(settings: dict[str, Any], versions: dict[str, str]) -> None:
    project = settings["project"]
    for line in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        requirement = Requirement(line)
        run = versions[requirement.name.lower().replace("_", "-")]
        major, minor = (int(part) for part in run.split(".")[:2])
        following = f"<0.{minor + 1}" if major == 0 else f"<{major + 1}"
        assert run in requirement.specifier and following in map(str, requirement.specifier), (
            line,
            run,
        )


def test_what_only_the_checkout_needs_begins_with_what_is_run(
    settings: dict[str, Any], versions: dict[str, str]
) -> None:
    run_by_others = {"hypothesis", "pytest", "pytest-xdist"}  # by `make test-oldest`
    for line in {
        line
        for group in settings["dependency-groups"].values()
        for line in group
        if isinstance(line, str)
    }:
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        if name in versions and name not in run_by_others:
            (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
            assert versions[name] in requirement.specifier, line
            assert f"{versions[name]}.".startswith(f"{lowest}."), line


def test_alone_it_knows_its_version_and_where_the_laboratory_is(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import asyndm, sys; from asyndm.command import main; "
        "print(asyndm.__version__); sys.exit(main(['run']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == Path(str(wheel.filename)).name.split("-")[1]
    assert done.returncode == 2
    assert done.stderr == (
        "error: asyndm run needs a checkout, which pip does not install: "
        "clone the repository and run make setup\n"
    )
