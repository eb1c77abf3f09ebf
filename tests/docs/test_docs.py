"""Every example page of docs/ does what it says: its files are written, its commands run, and what
it shows comes out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.engine.sweep import plan_sweep
from tests import faults
from tests.docs.commands import run_python
from tests.docs.pages import DOCS, EXAMPLES, INDEX, PROSE, ROOT, find_blocks, list_pages

INLINE = re.compile(r"`(?:\.venv/bin/)?python\s-m\s([\w.]+)([^`]*)`")
FILE = re.compile(r"# (mine/\S+)\n")
LONGEST = 110
"""Lines of a page beside its tables."""
WIDEST = 100


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of a page works: the checkout, with a folder ``mine``."""
    for part in ("conf", "src"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return tmp_path


@contextmanager
def hold_modules(folder: Path, shown: bool) -> Iterator[None]:
    """Python finds the modules of a folder inside, if it is shown them, and forgets them after."""
    with pytest.MonkeyPatch.context() as patch:
        if shown:
            patch.syspath_prepend(str(folder))
        yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


def run_line(line: str, folder: Path) -> None:
    """A command: of Python's modules in this process, which has imported most of it."""
    words = shlex.split(line)
    mine = words[0] == "PYTHONPATH=mine"
    words = words[mine:]
    if words[:2] == ["python", "-m"]:
        with hold_modules(folder / "mine", mine):
            run_python(words)
    else:
        command = [sys.executable if word == "python" else word for word in words]
        subprocess.run(command, check=True, timeout=300)


def has_line(said: str, beginning: str) -> bool:
    """Whether a line of the output begins like this one, whatever the width of its columns."""
    wanted = re.sub(r" +", " ", beginning)
    return any(re.sub(r" +", " ", line).startswith(wanted) for line in said.splitlines())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", EXAMPLES, ids=name_page)
def test_a_page_does_what_it_says(
    page: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said, checked = "", 0
    for language, text in find_blocks(page):
        if named := FILE.match(text):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language == "python":
            with hold_modules(folder / "mine", shown=True):
                exec(compile(text, page.name, "exec"), {})
        elif language == "bash":
            for line in text.splitlines():
                run_line(line, folder)
            said = "".join(capfd.readouterr())
            assert "Traceback" not in said and "usage:" not in said, said
        else:
            assert language == "text"
            for line in text.splitlines():
                assert has_line(said, line), f"{line}\n\nis not in\n\n{said}"
                checked += 1
    assert checked >= 2


def test_the_index_names_every_page_once() -> None:
    pages = sorted(page for page in DOCS.glob("*.md") if page != INDEX)
    assert sorted(list_pages()) == pages


@pytest.mark.parametrize("page", PROSE, ids=name_page)
def test_a_page_is_a_page(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if not line.startswith(("|", "!["))]
    assert page.parent != DOCS or len(lines) <= LONGEST
    assert not [line for line in lines if len(line) > WIDEST]


def test_settings_and_recipes_are_as_narrow() -> None:
    for path in [*(ROOT / "conf").rglob("*.yaml"), ROOT / "Makefile"]:
        assert all(len(line) <= WIDEST for line in path.read_text().splitlines()), path


def test_the_readme_is_read_in_a_minute() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert sum(len(line) > WIDEST for line in lines) <= 8


def test_commands_within_the_text_name_modules_and_runs_that_there_are() -> None:
    said = [INLINE.findall(path.read_text()) for path in PROSE]
    commands = sorted({command for found in said for command in found})
    assert len(commands) > 20
    for module, words in commands:
        assert find_spec(module), module
        settings = re.sub(r"\$\(.*\)", "1/2,2/2", words.replace("=NAME", "=demo"))
        if module == "experiments.run" and settings.strip() not in ("", "--help"):
            assert plan_sweep(shlex.split(settings)), words


def test_the_table_of_faults_is_that_of_the_tests() -> None:
    page = faults.PAGE.read_text()
    assert faults.insert_table(page) == page, "python -m tests.faults writes it"
    assert len(faults.read_faults()) == len(set(faults.read_faults()))
