"""The console command, and what the package says of itself."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

import asyndm
from asyndm.command import COMMANDS, TYPED, main, spell_commands
from asyndm.terminal import CLOSED
from evaluation.score import main as score
from experiments.report.command import main as report
from experiments.status import main as status

SCRIPT = Path(sys.executable).with_name("asyndm")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes after each test that this command was called."""
    monkeypatch.setenv(TYPED, "")


@contextmanager
def close_output() -> Iterator[None]:
    """Standard output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream, redirect_stdout(stream):
        yield


def run_to_end(main: Callable[[list[str]], int], *arguments: str) -> int:
    """The status that a command ends with."""
    try:
        return main([*arguments])
    except SystemExit as end:
        return int(end.code or 0)


def run_script(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the installed command says in a folder that is no checkout."""
    command = [str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    assert asyndm.__version__ == importlib.metadata.version("asyndm")
    done = run_script("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"asyndm {asyndm.__version__}\n")


def test_a_checkout_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    code = "import asyndm, sys; print(asyndm.__version__, 'torch' in sys.modules)"
    command = [sys.executable, "-S", "-c", code]  # without site-packages
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{asyndm.__version__} False\n"


def test_help_comes_at_once(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_script("--help", folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3  # of computing


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "rnu",
            "rnu: no such command (did you mean run?); choose from run, score, report, status; "
            "asyndm --help",
        ),
        ("--verison", "--verison: no such command (did you mean --version?)"),
        ("x\x1b[31m", r"'x\x1b[31m': no such command; choose"),
        ("", "'': no such command; choose"),
    ],
)
def test_an_unknown_command_is_told(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_as_it_was_typed(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = COMMANDS[command][0].removesuffix(".command")
    assert run_to_end(main, command, "--help") == 0
    said = capsys.readouterr().out
    assert f"asyndm {command} " in said and module not in said
    if command != "run":  # whose other name is what its config says
        os.environ[TYPED] = ""
        assert (
            run_to_end({"score": score, "report": report, "status": status}[command], "--help") == 0
        )
        said = capsys.readouterr().out
        assert f"python -m {module} " in said and f"asyndm {command}" not in said


def test_only_commands_are_named_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "make it with python -m experiments.run; "
        "experiments.run does. experiments.run.job experiments.report.opening"
    )
    assert spell_commands(text) == text
    monkeypatch.setenv(TYPED, "1")
    assert spell_commands(text) == (
        "make it with asyndm run; asyndm run does. experiments.run.job experiments.report.opening"
    )


def test_hints_name_commands_that_run_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"error: {tmp_path}: no runs there; make some with asyndm run\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["score", "x", "--promts", "y"],
            "--promts: no such option (did you mean --prompts?); asyndm score --help",
        ),
        (["report", "x", "--htlm=y"], "--htlm: no such option (did you mean --html?)"),
        (["status", "x", "--x\x1b[31m\n"], r"--x\x1b[31m\n: no such option; asyndm status --help"),
        (["status", "x", "--bogus"], "--bogus: no such option; asyndm status"),
        (["status", "x", "y\x1b[31m"], r"y\x1b[31m: one argument too many"),
        (["report", "x", "--by", "\x1b"], "argument --by: invalid choice: "),
        (["score"], "the following arguments are required: folder"),
    ],
)
def test_a_bad_option_is_told_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_to_end(main, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}") and line.isprintable()


@pytest.mark.fault(
    what="asyndm ... piped into head: nobody reads on",
    kind="other programs at the end of a pipe",
    now="it ends quietly, with status 141 as the shell's own commands",
)
@pytest.mark.parametrize("command", ["score", "report", "status", ""])
def test_a_closed_pipe_ends_it_quietly(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with close_output():
        assert run_to_end(main, *filter(None, [command]), "--help") == CLOSED
    assert capfd.readouterr().err == ""


def test_a_closed_pipe_ends_a_sweep_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with close_output():
        assert run_to_end(main, "run", "-m", "--dry-run", "limit=1", "mask=none,global") == CLOSED
    assert capfd.readouterr().err == ""


def test_it_is_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asyndm", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"asyndm {asyndm.__version__}\n")


def test_paths_are_from_where_it_is_called(tmp_path: Path) -> None:
    done = run_script("status", "mine", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: mine: ")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "prompts.csv").write_text("file,text\n")
    assert (
        "pictures" in run_script("score", "pictures", "metric=clip_shapes", folder=tmp_path).stderr
    )
