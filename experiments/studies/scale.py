"""What large results folders cost: seconds and peak memory of the commands that read them, as a
Markdown table.

python -m experiments.studies.scale
python -m experiments.studies.scale --images 1000 100000 --commands report --limit 60

The folder holds a run of DM and one of AsynDM, with half of the images each, a prompt an image,
scored by two metrics. Tables are as real runs leave them, and no two pictures or traces are alike:
a few small ones, each copy with a number in it. Making them takes as long as reporting them, and
leaves them in the system's memory. All folders stay until the end, as a disk that has just lost
many files is slow to make others: 100,000 images take some 2 GB. Each command has a process of its
own, and what it says is shown only where it fails.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from PIL import Image

from asyndm.errors import UserError
from asyndm.subjects import Subject
from evaluation.choices import build_metrics
from evaluation.messages import describe
from evaluation.runs.files import PNG_END, write_json
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    RUN_FILE,
    SCHEMA_VERSION,
    SCORES_FILE,
    STATE_FILE,
    write_prompts,
)
from evaluation.runs.prompts import Prompt, text_id
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.traces import TRACES, encode, trace
from experiments.engine.plan import Plan
from experiments.engine.schema import CONF
from experiments.engine.sweep import planned

SIZES, LIMIT = (1_000, 10_000, 100_000), 200.0
"""Images, and seconds after which a command is ended."""
GRID = ("seed=range(0,100)", "curve.concavity=0.1,0.2,0.3,0.4", "num_inference_steps=4,5,6,7,8")
COMMANDS = (
    ("score", ("evaluation.score", "{runs}", "metric=exact")),
    ("report", ("experiments.report", "{runs}")),
    ("report --html", ("experiments.report", "{runs}", "--html", "{page}")),
    ("status", ("experiments.status", "{runs}")),
    ("status --verify", ("experiments.status", "{runs}", "--verify")),
    (
        "run --dry-run, 2,000 jobs",
        ("experiments.run", "-m", "--dry-run", "output_dir={runs}", *GRID),
    ),
)
"""Name and arguments of each, where ``{runs}`` is the folder and ``{page}`` one to write to."""
SETTINGS = ("mask=none,dynamic", "metric=[exact,clip_shapes]", "limit=1")
DISTINCT = 64
"""Pictures, and traces, that differ in what is seen; all files differ in a chunk of text."""
NUMBER = "number"
"""That chunk's keyword."""
SIDE, LATENTS = 64, 16
POLL = 0.02
"""Seconds between two looks at a process's memory."""
KINDS = ("one", "two", "count", "relation")


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds, and the most memory it held in MB. Both are None where it was
    ended."""

    seconds: float | None
    memory: float | None


def make_runs(root: Path, images: int) -> None:
    """Two finished runs with so many images together.

    Args:
        root: the folder for them.
        images: at least 2.
    """
    plans = planned([*SETTINGS, f"output_dir={root}"])
    pictures, traces = list(_pictures()), list(_traces())
    prompts = tuple(map(_prompt, range(images // len(plans))))
    for number, plan in enumerate(plans):
        _make_run(replace(plan, prompts=prompts), pictures, traces if number else [], number)


def _prompt(number: int) -> Prompt:
    text = f"a red circle and a blue square, number {number}"
    return Prompt(
        text_id(text), text, (Subject("circle"), Subject("square")), KINDS[number % len(KINDS)]
    )


def _pictures() -> Iterator[bytes]:
    draw = np.random.default_rng(0)
    for _ in range(DISTINCT):
        coarse, buffer = (
            Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)),
            io.BytesIO(),
        )
        coarse.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "PNG")
        yield buffer.getvalue()


def _traces() -> Iterator[bytes]:
    draw, steps = np.random.default_rng(1), (1, 4, 7, 10)
    for _ in range(DISTINCT):
        levels = np.sort(draw.uniform(0, 1000, (len(steps), LATENTS, LATENTS)), 0)[::-1]
        masks = draw.integers(0, 2, (len(steps), 2, LATENTS, LATENTS)).astype(float)
        yield encode(trace(steps, levels, masks))


def numbered(png: bytes, number: int) -> bytes:
    """The PNG with a number in it, in a chunk of text before its end."""
    chunk = f"tEXt{NUMBER}\0{number}".encode()
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[: -len(PNG_END)] + length + chunk + check + PNG_END


def _make_run(plan: Plan, pictures: Sequence[bytes], traces: Sequence[bytes], number: int) -> None:
    """A run's folder as it is left when all is done; its scores depend on `number`."""
    folder, draw, digests = plan.folder, np.random.default_rng(number), list[str]()
    for sort in ("images", TRACES):
        (folder / sort).mkdir(parents=True)
    for i, item in enumerate(plan.items):
        name = number * len(plan.items) + i
        content = numbered(pictures[i % DISTINCT], name)
        digests.append(hashlib.sha256(content).hexdigest())
        (folder / "images" / item.name).write_bytes(content)
        if traces:
            (folder / TRACES / item.name).write_bytes(numbered(traces[i % DISTINCT], name))
    write_json(folder / RUN_FILE, _record(plan))
    write_json(folder / STATE_FILE, {"state": "done", "total": len(plan.items)})
    write_prompts(folder / PROMPTS_FILE, plan.prompts)
    rows = [
        ImageRow(
            plan.run_id,
            item.prompt.prompt_id,
            item.prompt.text,
            tuple(subject.text for subject in item.prompt.subjects),
            item.prompt.kind,
            item.image_index,
            item.seed,
            item.file,
            digest,
        )
        for item, digest in zip(plan.items, digests, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, rows)
    values = {
        "exact": draw.integers(0, 2, len(rows)).astype(float),
        "clip_shapes": draw.normal(0.3, 0.05, len(rows)),
    }
    scores = [
        ScoreRow(plan.run_id, *row.key, name, float(value))
        for name, of in values.items()
        for row, value in zip(rows, of, strict=True)
    ]
    write_rows(folder / SCORES_FILE, ScoreRow, scores)


def _record(plan: Plan) -> Mapping[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "label": plan.label,
        "config": plan.config,
        "identity": plan.identity,
        "prompts": len(plan.prompts),
        "images": len(plan.items),
        "batch_size": plan.config["batch_size"],
        "metrics": {
            name: metric.basis for name, metric in build_metrics(plan.config["metric"]).items()
        },
        "timings": {
            "sampling_seconds": 1.0,
            "images_sampled": len(plan.items),
            "scoring_seconds": 1.0,
        },
    }


def measure(arguments: Sequence[str], limit: float) -> Cost:
    """Runs ``python -m ...`` in a process of its own, ended after `limit` seconds.

    Raises:
        UserError: it fails; with the last line it said.
    """
    path = os.pathsep.join((str(CONF.parent), str(CONF.parent / "src")))
    began, peak = time.monotonic(), 0.0
    with (
        TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=CONF.parent,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=said,
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            if time.monotonic() - began > limit:
                process.kill()
                return Cost(None, None)
            time.sleep(POLL)
        seconds = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            last = (said.read().strip().splitlines() or [f"status {process.returncode}"])[-1]
            raise UserError(f"python -m {' '.join(arguments)}: {last}")
    return Cost(seconds, peak)


def _peak(pid: int) -> float:
    """The most memory a process has held so far, in MB, as Linux tells; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1000 if found else 0.0


def costs(root: Path, images: int, names: Sequence[str], limit: float) -> dict[str, Cost]:
    """Every command's cost over a folder made for it below `root`; each is told when it is
    known."""
    places = {"runs": str(root / f"runs-{images}"), "page": str(root / f"page-{images}")}
    make_runs(Path(places["runs"]), images)
    found = {}
    for name, command in COMMANDS:
        if name in names:
            found[name] = measure([part.format(**places) for part in command], limit)
            print(
                f"{images:,} images, {name}: {_told(found[name], limit)}",
                file=sys.stderr,
                flush=True,
            )
    return found


def to_markdown(found: Mapping[int, Mapping[str, Cost]], limit: float) -> str:
    """A row a command, a column a number of images."""
    heads = ["", *(f"{images:,} images" for images in found)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for name in next(iter(found.values())):
        cells = [_told(of[name], limit) for of in found.values()]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _told(cost: Cost, limit: float) -> str:
    return (
        f"{cost.seconds:.1f} s, {cost.memory:,.0f} MB"
        if cost.seconds
        else f"ended after {limit:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    names = [name for name, _ in COMMANDS]
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--images", nargs="+", type=int, default=SIZES, metavar="N", help="of the folders"
    )
    parser.add_argument("--commands", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, metavar="SECONDS", help="for each command"
    )
    chosen = parser.parse_args(arguments)
    try:
        if few := [images for images in chosen.images if images < 2]:
            raise UserError(f"--images {few[0]}: must be at least 2, one for each run")
        with TemporaryDirectory(prefix="asyndm-scale-") as root:
            found = {
                n: costs(Path(root), n, chosen.commands, chosen.limit)
                for n in dict.fromkeys(chosen.images)
            }
    except (UserError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1
    print(to_markdown(found, chosen.limit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
