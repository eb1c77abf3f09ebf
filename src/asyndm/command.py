"""The console command ``asyndm``: the laboratory of the checkout that the package was installed
from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from asyndm.checkout import find_checkout, read_version
from asyndm.terminal import ends_quietly

COMMANDS = {
    "run": ("experiments.run", "sample one run, or with -m a sweep, and score it"),
    "score": ("evaluation.score", "score any folder of pictures"),
    "report": ("experiments.report.command", "tables, figures and a page of finished runs"),
    "status": ("experiments.status", "what is done, running or broken in a folder of runs"),
}
"""The module of each command, whose ``main`` takes the arguments, and what it is for."""
TYPED = "ASYNDM_TYPED"
"""Environment variable of those, and of what they start, who call the laboratory by this command.
"""


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: the one of the command it forwards to, or 2 for
    none such."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help"):
        print(describe_usage())
        return 0
    if command == "--version":
        print(f"asyndm {read_version()}")
        return 0
    if command not in COMMANDS:
        print(f"error: {_explain_unknown(command)}", file=sys.stderr)
        return 2
    root = find_checkout()
    if root is None:
        print(
            f"error: asyndm {command} needs a checkout, which pip does not install: clone the "
            "repository and run make setup",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, str(root))
    os.environ[TYPED] = "1"
    status: int = import_module(COMMANDS[command][0]).main(rest)
    return status


def spell_commands(text: str) -> str:
    """A text with the commands that it names as their user types them: ``asyndm run`` for ``python
    -m experiments.run`` where that is how the laboratory was called, and as they are where it was
    not."""
    if os.environ.get(TYPED):
        for name, (module, _) in COMMANDS.items():
            name_of_module = re.escape(module.removesuffix(".command"))
            pattern = rf"(?:python -m )?(?<![\w./=]){name_of_module}(?!\.?\w)"
            text = re.sub(pattern, f"asyndm {name}", text)
    return text


def _explain_unknown(command: str) -> str:
    """That there is no such command or option, and what may be meant."""
    from difflib import get_close_matches

    meant = get_close_matches(command, [*COMMANDS, "--help", "--version"], 1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    shown = command if command.isprintable() and command else repr(command)
    names = ", ".join(COMMANDS)
    return f"{shown}: no such command{hint}; choose from {names}; asyndm --help tells more"


def describe_usage() -> str:
    """What the command can do."""
    lines = [f"  {name:8}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: asyndm COMMAND ...",
            "",
            *lines,
            "",
            "asyndm COMMAND --help tells more; asyndm --version is the package's. Paths are from "
            "where you are.",
        ]
    )
