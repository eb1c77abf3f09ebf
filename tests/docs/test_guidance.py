"""The table of guidances has all that can be chosen, at the cost that they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from asyndm.guidance import Cost, Guidance
from evaluation.choices import CONF
from experiments.engine.guidance import build_guidance
from tests.docs.pages import DOCS
from tests.experiments.engine.test_schema import compose_config

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "guidance.md").read_text().splitlines()
    if line.startswith("| `") and line.count("|") == 7 and not line.startswith("| `guidance=`")
]
YAMLS = sorted((CONF / "guidance").glob("*.yaml"))


def read_guidance(name: str) -> Guidance:
    """A choice, with what is recommended for the embedded model."""
    node: Any = OmegaConf.to_container(compose_config(f"guidance={name}").guidance, resolve=True)
    built = build_guidance(node)
    assert isinstance(built, Guidance)
    return built


def describe(cost: Cost) -> str:
    backward = f" {cost.backward:g}b" if cost.backward else ""
    return f"{'' if cost.exact else '≤ '}{cost.forward:g}f{backward}"


def test_every_choice_has_a_row() -> None:
    assert sorted(row[0].strip("`") for row in ROWS) == [path.stem for path in YAMLS]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_row_says_what_it_costs(path: Path) -> None:
    costs = {row[0].strip("`"): row[3] for row in ROWS}
    assert costs[path.stem] == describe(read_guidance(path.stem).cost(50))
