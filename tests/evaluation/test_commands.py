"""The frame of a command, and its arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.commands import Parser, command_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such\x1b run"), "error: no such\\x1b run"),
        (FileNotFoundError(2, "No such file", "a.csv"), "error: a.csv: No such file"),
        (IsADirectoryError(), "error: IsADirectoryError"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    @command_line(status=2)
    def main(folder: Path) -> int:
        """Does it."""
        raise error

    assert main(Path()) == 2 and capsys.readouterr().err == f"{line}\n"
    assert main.__doc__ == "Does it."


def test_other_errors_and_interruptions_come_as_they_are() -> None:
    @command_line()
    def main(error: type[BaseException]) -> int:
        raise error

    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            main(error)
    with pytest.raises(SystemExit):
        main(SystemExit)


def test_what_goes_on_from_where_it_was_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    @command_line(errors=(Exception,), resumes=True)
    def main(error: type[BaseException] | None = None) -> int:
        if error is not None:
            raise error
        return 0

    assert main() == 0 and main(ZeroDivisionError) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError\n"
    assert main(KeyboardInterrupt) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_options_and_arguments_come_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("evaluation.score", "What it does.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--batch-size", type=int)
    read = parser.read(["runs", "--batch-size", "3", "a=b"])
    assert (read.folder, read.settings, read.batch_size) == (Path("runs"), ["a=b"], 3)
    with pytest.raises(SystemExit, match="2"):
        parser.read(["runs", "--batch-sise", "3"])
    assert "--batch-sise: no such option (did you mean --batch-size?)" in capsys.readouterr().err
