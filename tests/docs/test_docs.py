"""Every page of docs/ does what it says: its files are written, its commands run, and what it shows
comes out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.engine.sweep import planned
from tests import faults

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "README")
INLINE = re.compile(r"`python -m ([\w.]+)([^`]*)`")
PROSE = (
    "README.md",
    "docs/*.md",
    "evaluation/*.md",
    "experiments/results/*.md",
    "src/asyndm/shapes/weights/*.md",
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (mine/\S+)\n")
LONGEST = 90


def run(command: list[str], folder: Path, path: str) -> str:
    """What a command says, on both streams."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    return done.stdout


def shown(line: str, said: str) -> bool:
    """Whether a line of the output begins like this one, whatever the width of its columns."""
    return any(
        re.sub(r" +", " ", told).startswith(re.sub(r" +", " ", line)) for told in said.splitlines()
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    for folder in ("conf", "experiments", "evaluation", "src"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    said, checked = "", 0
    for language, text in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
        if named := FILE.match(text):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language == "python":
            out = run([sys.executable, "-c", text], tmp_path, "src:mine")
            assert not out, out
        elif language == "bash":
            said = ""
            for line in text.splitlines():
                words = shlex.split(line)
                mine = words[0] == "PYTHONPATH=mine"
                command = [sys.executable if word == "python" else word for word in words[mine:]]
                said += run(command, tmp_path, "src:.:mine" if mine else "src:.")
            assert "Traceback" not in said and "usage:" not in said, said
        else:
            assert language == "text"
            for line in text.splitlines():
                assert shown(line, said), f"{line}\n\nis not in\n\n{said}"
                checked += 1
    assert checked >= 2


def test_the_index_names_every_page() -> None:
    named = re.findall(r"\((\w+)\.md\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(named) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_a_page(page: str) -> None:
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    assert sum(not line.startswith("|") for line in lines) <= LONGEST


def test_commands_within_the_text_name_modules_and_runs_that_there_are() -> None:
    said = [INLINE.findall(path.read_text()) for pages in PROSE for path in ROOT.glob(pages)]
    commands = sorted({command for found in said for command in found})
    assert len(commands) > 20
    for module, words in commands:
        assert find_spec(module), module
        settings = re.sub(r"\$\(.*\)", "1/2,2/2", words.replace("=NAME", "=demo"))
        if module == "experiments.run" and settings:
            assert planned(shlex.split(settings)), words


def test_the_table_of_faults_is_that_of_the_tests() -> None:
    page = faults.PAGE.read_text()
    assert faults.written(page) == page, "python -m tests.faults writes it"
    assert len(faults.faults()) == len(set(faults.faults()))
