"""All that needs a GPU, tried on the one that is here, in one table.

    python -m experiments.gpu_check                                # a GPU, 8 minutes
    python -m experiments.gpu_check --device cpu --small           # what a CPU can say, a minute
    python -m experiments.gpu_check --only steps,compilation --minutes 20 --out more

Samples in half precision against float32 on the CPU, times and memory of steps on random weights of
real size, waits for the GPU, torch.compile, batches that do not fit, leases, metrics in half
precision, a profile; first what has a target. What cannot run has a row that says why. The table is
written with each row.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from evaluation.commands import Parser, command_line
from evaluation.runs.files import write_bytes
from experiments.engine.versions import describe_machine, find_version
from experiments.gpu_check.parts import Part, Setting, run_part
from experiments.gpu_check.rows import NOT_RUN, Row, write_csv, write_markdown

OUT = Path("runs/gpu_check")
TABLES = ("table.csv", "table.md")
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "triton", "numpy")
CHECKS = ("waits", "memory", "leases", "sampling", "metrics", "profile", "steps", "compilation")
"""Modules of this package, the order of their parts among those with and those without a target."""


def list_head(setting: Setting) -> Iterator[Row]:
    """What everything ran on."""
    facts = describe_machine(setting.device) | {"Python": platform.python_version()}
    facts |= {name: find_version(name) or "none" for name in PACKAGES}
    for name, value in facts.items():
        yield Row("machine", name, value)


def check(setting: Setting, names: Sequence[str]) -> Iterator[Row]:
    """The rows of these checks as they are made."""
    yield from list_head(setting)
    parts = list[Part]()
    for name in names:
        try:
            module = import_module(f"experiments.gpu_check.{name}")
        except ModuleNotFoundError as error:
            yield Row(name, "all", NOT_RUN, note=f"missing: {error.name}")
            continue
        parts += module.list_parts(setting)
    for part in sorted(parts, key=lambda part: not part.aimed):
        yield from run_part(part, setting)


def hush_libraries() -> None:
    """Neither bars nor advice of theirs stand between the rows."""
    for name in ("diffusers", "transformers"):
        with suppress(ModuleNotFoundError):
            logging = import_module(f"{name}.utils.logging")
            logging.disable_progress_bar()
            logging.set_verbosity_error()


def keep_earlier_tables(folder: Path) -> None:
    """Those that are there get the time when they were written into their names."""
    for path in (folder / name for name in TABLES):
        if path.exists():
            when = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
            path.rename(path.with_stem(f"{path.stem}-{when}"))


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Both forms of the table."""
    for name, text in zip(TABLES, (write_csv(rows), write_markdown(rows)), strict=True):
        write_bytes(folder / name, text.encode())


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 1 where a check failed or a target was missed."""
    parser = Parser("experiments.gpu_check", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, few pictures")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="of the table")
    parser.add_argument("--only", default=",".join(CHECKS), help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all may take")
    chosen = parser.read(arguments)
    names = chosen.only.split(",")
    if unknown := sorted(set(names) - set(CHECKS)):
        parser.error(f"--only {unknown[0]}: choose from {', '.join(CHECKS)}")
    if not 0 < chosen.minutes < 1000:
        parser.error("--minutes must be more than 0, and less than 1000")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; --device cpu --small needs none")
    if chosen.device == "cpu" and not chosen.small:
        parser.error("--device cpu: real sizes are for a GPU; add --small")
    device = torch.device(chosen.device)
    setting = Setting(device, chosen.small, time.monotonic() + 60 * chosen.minutes)
    chosen.out.mkdir(parents=True, exist_ok=True)
    keep_earlier_tables(chosen.out)
    rows = list[Row]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hush_libraries()
        for row in check(setting, names):
            rows.append(row)
            print(row.tell(), flush=True)
            write_table(chosen.out, rows)
    bad = [row for row in rows if row.is_bad]
    took = 60 * chosen.minutes - setting.left
    print(f"{len(rows)} rows in {took:.0f} s, {len(bad)} to look at: {chosen.out / 'table.md'}")
    for row in bad:
        print(row.tell(), file=sys.stderr)
    return 1 if bad else 0
