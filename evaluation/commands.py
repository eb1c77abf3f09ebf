"""The frame of a command: its arguments, and an error or an interruption told in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NoReturn, ParamSpec

from asyndm.command import spell_commands
from asyndm.errors import UserError
from asyndm.terminal import ends_quietly, printable
from evaluation.messages import describe, did_you_mean

INTERRUPTED = 130
"""Exit status: 128 and the number of SIGINT, as shells have it."""
Arguments = ParamSpec("Arguments")


def command_line(
    errors: tuple[type[Exception], ...] = (UserError, OSError),
    status: int = 1,
    resumes: bool = False,
) -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """Decorates the ``main`` of a command, which returns its exit status.

    Args:
        errors: that are told in one line on standard error; others, as mistakes of the program,
            come with their traceback.
        status: after one of them.
        resumes: whether an interrupted command goes on where it was, and is to say so.
    """

    def frame(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @wraps(main)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            with ends_quietly():
                try:
                    return main(*args, **kwargs)
                except KeyboardInterrupt:
                    if not resumes:
                        raise
                    print("interrupted; the same command goes on from here", file=sys.stderr)
                    return INTERRUPTED
                except errors as error:
                    tell_error(error)
                    return status

        return run

    return frame


def tell_error(error: BaseException) -> None:
    """Prints an error in one line on standard error."""
    print(f"error: {describe(error)}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Options and other arguments in any order.

    Args:
        module: of the command, as ``python -m`` takes it; its help says how the user types that.
        description: what it does, printed line for line.
    """

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            prog=spell_commands(f"python -m {module}"),
            description=spell_commands(description or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def read(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """What was asked for.

        Raises:
            SystemExit: with status 2 where that cannot be read, with 0 where it was the help.
        """
        chosen, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            if wrong.startswith("-"):
                options = [option for action in self._actions for option in action.option_strings]
                self.error(f"{wrong}: no such option{did_you_mean(wrong, options)}")
            self.error(f"{unknown[0]}: one argument too many")
        return chosen

    def error(self, message: str) -> NoReturn:
        line = printable(f"error: {message}; {self.prog} --help tells more".replace("\n", "\\n"))
        self.exit(2, f"{line}\n")
