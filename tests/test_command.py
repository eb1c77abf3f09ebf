"""The console command, and what the package says of itself."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import asyndm
from asyndm.command import COMMANDS, main

SCRIPT = Path(sys.executable).with_name("asyndm")
ROOT = Path(__file__).resolve().parents[1]


def asked(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the installed command says in a folder that is no checkout."""
    command = [str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    assert asyndm.__version__ == importlib.metadata.version("asyndm")
    done = asked("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"asyndm {asyndm.__version__}\n")


def test_a_checkout_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    code = "import asyndm, sys; print(asyndm.__version__, 'torch' in sys.modules)"
    command = [sys.executable, "-S", "-c", code]  # without site-packages
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{asyndm.__version__} False\n"


def test_help_comes_at_once(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = asked("--help", folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3  # of computing


def test_an_unknown_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert (
        capsys.readouterr().err
        == "error: rnu: choose from run, score, report, status; asyndm --help tells more\n"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", "Powered by Hydra"),
        ("score", "usage: python -m evaluation.score"),
        ("report", "usage: python -m experiments.report"),
        ("status", "usage: python -m experiments.status"),
    ],
)
def test_every_command_is_the_laboratory_s(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([command, "--help"])
    except SystemExit as end:  # of argparse
        status = int(end.code or 0)
    assert status == 0 and said in capsys.readouterr().out


def test_paths_are_from_where_it_is_called(tmp_path: Path) -> None:
    done = asked("status", "mine", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: mine: ")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "prompts.csv").write_text("file,text\n")
    assert "pictures" in asked("score", "pictures", "metric=clip_shapes", folder=tmp_path).stderr
