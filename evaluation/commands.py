"""The command line of a command: what is wrong with it is told in one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from asyndm.command import as_typed
from asyndm.terminal import printable
from evaluation.messages import did_you_mean


class Parser(argparse.ArgumentParser):
    """Options and other arguments in any order.

    Args:
        module: of the command, as ``python -m`` takes it; its help says how the user types that.
        description: what it does, printed line for line.
    """

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            prog=as_typed(f"python -m {module}"),
            description=as_typed(description or ""),
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
