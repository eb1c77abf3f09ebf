"""The floors of the house: who may import whom, in the sources and in a fresh interpreter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import ROOT

FORBIDDEN = {
    "src/asyndm": ("evaluation", "experiments", "hydra", "omegaconf", "pandas", "wandb"),
    "evaluation": ("experiments", "hydra", "hydra_plugins", "wandb"),
    "evaluation/runs": ("hydra", "omegaconf", "torch", "diffusers", "transformers"),
    "experiments": ("experiments.studies",),
}
"""What nothing in a folder imports, also not later on, when it is called. Studies may."""
CLASS_PATH = re.compile(r"(asyndm|evaluation|experiments)(\.\w+)+\.[A-Z]\w*")


def list_sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def read_imports(path: Path) -> Iterator[str]:
    """The modules that a file names in an import, and what it takes of them, with dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_import_runs_against_the_floors(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in list_sources(folder)
        if "studies" not in path.parts
        for module in read_imports(path)
        if any(is_within(module, package) for package in FORBIDDEN[folder])
    ]
    assert wrong == []


def test_what_a_run_leaves_behind_knows_nothing_else_of_the_harness() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in list_sources("evaluation/runs")
        for module in read_imports(path)
        if is_within(module, "evaluation") and not is_within(module, "evaluation.runs")
    ]
    assert wrong == []


def test_nothing_imports_a_main_module() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for folder in ("src/asyndm", "evaluation", "experiments", "tests")
        for path in list_sources(folder)
        for module in read_imports(path)
        if "__main__" in module.split(".")
    ]
    assert wrong == []


def test_no_choice_is_known_by_the_path_of_its_class() -> None:
    def compared(node: ast.AST) -> list[ast.expr]:
        if isinstance(node, ast.Compare):
            return [node.left, *node.comparators]
        return [node.value] if isinstance(node, ast.MatchValue) else []

    wrong = [
        f"{path.relative_to(ROOT)}: {constant.value}"
        for folder in ("evaluation", "experiments")
        for path in list_sources(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        for operand in compared(node)
        for constant in ast.walk(operand)
        if isinstance(constant, ast.Constant)
        and isinstance(constant.value, str)
        and CLASS_PATH.fullmatch(constant.value)
    ]
    assert wrong == []


def list_modules(folder: str) -> list[str]:
    """The importable names of a folder's files, but for those that are a command."""
    parts = (path.relative_to(ROOT).with_suffix("").parts for path in list_sources(folder))
    names = (".".join(part for part in path if part != "__init__") for path in parts)
    return [name for name in names if not name.endswith(".__main__")]


def run_fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_harness_is_imported_where_there_is_no_hydra() -> None:
    run_fresh(
        "import importlib, sys\n"
        "sys.modules['hydra'] = sys.modules['hydra.core'] = None\n"
        f"for name in {list_modules('evaluation')}: importlib.import_module(name)\n"
    )


def test_what_a_run_leaves_behind_is_imported_without_a_network() -> None:
    loaded = run_fresh(
        "import importlib, sys\n"
        f"for name in {list_modules('evaluation/runs')}: importlib.import_module(name)\n"
        "print(*sys.modules)\n"
    ).split()
    heavy = {"torch", "diffusers", "transformers", "hydra", "omegaconf"} & set(loaded)
    others = [name for name in loaded if is_within(name, "evaluation") and name != "evaluation"]
    assert not heavy and all(is_within(name, "evaluation.runs") for name in others)
