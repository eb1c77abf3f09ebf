"""How far the runs of a folder are: done, running, failed or stale, how fast, and what is left.

python -m experiments.status runs
python -m experiments.status runs --failed  # the last lines and the traceback of what broke
python -m experiments.status runs --verify  # reads every picture: is it the listed one?
watch -n 10 python -m experiments.status runs

A run is stale where its process stopped without reporting it (killed, a machine lost). The exit
status is 0 if all is done, 1 if not, and 2 if there are no runs. The same ``experiments.run``
command makes what is missing or changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from asyndm.command import spell_commands
from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.commands import Parser, command_line, tell_error
from evaluation.messages import count_things
from evaluation.narrow import measure_terminal
from experiments.engine.progress import BROKEN, Part, find_folders, read_parts
from experiments.engine.progress_table import format_table
from experiments.engine.verify import find_faults


def format_failures(parts: Iterable[Part]) -> str:
    """What is known of each part that broke."""
    return printable("\n\n".join(_describe_end(p) for p in parts if p.state in BROKEN))


def _describe_end(part: Part) -> str:
    content = part.content or {}
    process = f"process {content.get('pid', '?')} on {content.get('host', '?')}"
    lines = [f"== {part.name}: {part.state}, {part.there:,} of {part.total:,} images, {process}"]
    if part.state == "stale":
        lines.append(f"gone without a word while {content.get('phase', 'at work')}")
    log = content.get("log", [])
    lines += map(str, log if isinstance(log, list) else [log])
    lines.append(str(content.get("traceback", "")).rstrip())
    return "\n".join(line for line in lines if line)


def show(folders: Sequence[Path], failed: bool) -> int:
    """Prints how far runs are, or why they broke; what cannot be read is named.

    Returns:
        The exit status.
    """
    parts, left_out = list[Part](), 0
    for folder in folders:
        try:
            parts += read_parts(folder)
        except (UserError, OSError) as error:
            left_out += 1
            tell_error(error)
    if not parts:
        return 2
    if failed:
        print(format_failures(parts) or "none failed")
    else:
        print(format_table(parts, measure_terminal()))
    return 0 if not left_out and all(part.state == "done" for part in parts) else 1


def verify(folders: Sequence[Path]) -> int:
    """Prints a line for each picture that is not the one its run lists, and how many there are.

    Returns:
        The exit status: 2 where none is listed.
    """
    right = wrong = unread = 0
    for folder in folders:
        try:
            for path, fault in find_faults(folder):
                right, wrong = right + (not fault), wrong + bool(fault)
                if fault:
                    print(printable(f"{fault}: {path}".replace("\n", "\\n")))
        except (UserError, OSError) as error:
            unread += 1
            tell_error(error)
    hint = spell_commands("; the same experiments.run command makes them anew") if wrong else ""
    print(f"{count_things(right, 'picture')} as listed, {wrong:,} not{hint}")
    return 1 if wrong or unread else 0 if right else 2


@command_line(status=2)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0 all done, 1 not all, 2 no run to read."""
    parser = Parser("experiments.status", __doc__)
    parser.add_argument("folder", type=Path, help="a run, or a folder of runs")
    parser.add_argument(
        "--failed", action="store_true", help="print what is known of those that broke"
    )
    parser.add_argument(
        "--verify", action="store_true", help="name pictures that are changed, cut or missing"
    )
    chosen = parser.read(arguments)
    folders = find_folders(chosen.folder)
    return verify(folders) if chosen.verify else show(folders, chosen.failed)


if __name__ == "__main__":
    sys.exit(main())
