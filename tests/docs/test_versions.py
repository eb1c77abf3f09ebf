"""The numbers of versions that are written down by hand are those of the code."""

from __future__ import annotations

import re
import tomllib

import yaml

from evaluation.runs.records import SCHEMA_VERSION
from experiments.engine.identity import RECIPE
from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_is_valid_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"].startswith(PROJECT["name"])
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert citation["preferred-citation"] == paper
    assert paper["type"] == "conference-paper" and paper["title"] and paper["conference"]["name"]
    assert paper["doi"].endswith("arXiv.2510.04504") and paper["url"].endswith("/2510.04504")
    for author in [*citation["authors"], *paper["authors"]]:
        assert author.keys() in ({"name"}, {"given-names", "family-names"})


def test_the_changelog_tells_the_current_versions() -> None:
    assert PROJECT["version"] in CHANGELOG
    for name, number in {"RECIPE": RECIPE, "SCHEMA_VERSION": SCHEMA_VERSION}.items():
        assert f"**`{name}` is {number}**" in CHANGELOG
        table = CHANGELOG.partition(f"| `{name}` | since |")[2].partition("\n\n")[0]
        told = [int(n) for n in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
        assert told == [*range(1, number + 1)]
