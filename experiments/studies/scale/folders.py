"""Folders of finished runs of any size, made without a network."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyndm.subjects import Subject
from evaluation.choices import build_metrics
from evaluation.runs.files import PNG_END, write_json
from evaluation.runs.folder import IMAGES_FILE, PROMPTS_FILE, SCORES_FILE, STATE_FILE, write_prompts
from evaluation.runs.prompts import Prompt, make_text_id
from evaluation.runs.records import RUN_FILE, SCHEMA_VERSION
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import IMAGES, ImageRow, ScoreRow
from evaluation.runs.traces import TRACES, encode_trace, make_trace
from experiments.engine.cost import forecast_run
from experiments.engine.plan import Plan
from experiments.engine.sweep import plan_sweep

SETTINGS = ("mask=none,dynamic", "metric=[exact,clip_shapes]", "limit=1")
DISTINCT = 64
"""Pictures, and traces, that differ in what is seen; all files differ in a chunk of text."""
NUMBER = "number"
"""That chunk's keyword."""
SIDE, LATENTS = 64, 16
KINDS = ("one", "two", "count", "relation")


def make_runs(root: Path, images: int) -> None:
    """Two finished runs with so many images together.

    Args:
        root: the folder for them.
        images: at least 2.
    """
    plans = plan_sweep([*SETTINGS, f"output_dir={root}"])
    pictures, traces = list(_draw_pictures()), list(_draw_traces())
    prompts = tuple(map(_build_prompt, range(images // len(plans))))
    for number, plan in enumerate(plans):
        _make_run(replace(plan, prompts=prompts), pictures, traces if number else [], number)


def _build_prompt(number: int) -> Prompt:
    text = f"a red circle and a blue square, number {number}"
    subjects = (Subject("circle"), Subject("square"))
    return Prompt(make_text_id(text), text, subjects, KINDS[number % len(KINDS)])


def _draw_pictures() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "PNG")
        yield buffer.getvalue()


def _draw_traces() -> Iterator[bytes]:
    rng, steps = np.random.default_rng(1), (1, 4, 7, 10)
    for _ in range(DISTINCT):
        levels = np.sort(rng.uniform(0, 1000, (len(steps), LATENTS, LATENTS)), 0)[::-1]
        masks = rng.integers(0, 2, (len(steps), 2, LATENTS, LATENTS)).astype(float)
        yield encode_trace(make_trace(steps, levels, masks))


def add_number(png: bytes, number: int) -> bytes:
    """The PNG with a number in it, in a chunk of text before its end."""
    chunk = f"tEXt{NUMBER}\0{number}".encode()
    # the length of a chunk is that of its text, the checksum that of its type and its text
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[: -len(PNG_END)] + length + chunk + check + PNG_END


def _make_run(plan: Plan, pictures: Sequence[bytes], traces: Sequence[bytes], number: int) -> None:
    """A run's folder as it is left when all is done; its scores depend on `number`."""
    folder = plan.folder
    digests = _write_pictures(plan, pictures, traces, number)
    write_json(folder / RUN_FILE, _build_record(plan))
    write_json(folder / STATE_FILE, {"state": "done", "total": len(plan.items)})
    write_prompts(folder / PROMPTS_FILE, plan.prompts)
    rows = [
        ImageRow(
            run_id=plan.run_id,
            prompt_id=item.prompt.prompt_id,
            prompt=item.prompt.text,
            subjects=tuple(subject.text for subject in item.prompt.subjects),
            kind=item.prompt.kind,
            image_index=item.image_index,
            seed=item.seed,
            file=item.file,
            sha256=digest,
        )
        for item, digest in zip(plan.items, digests, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, rows)
    rng = np.random.default_rng(number)
    counts = {"exact": (0, 0), "clip_shapes": ()}
    values = {
        "exact": rng.integers(0, 2, len(rows)).astype(float),
        "clip_shapes": rng.normal(0.3, 0.05, len(rows)),
    }
    scores = [
        ScoreRow(plan.run_id, *row.key, name, float(value), "", *counts[name])
        for name, of in values.items()
        for row, value in zip(rows, of, strict=True)
    ]
    write_rows(folder / SCORES_FILE, ScoreRow, scores)


def _write_pictures(
    plan: Plan, pictures: Sequence[bytes], traces: Sequence[bytes], number: int
) -> list[str]:
    """The hashes of the pictures, in the order of the plan."""
    digests = []
    for name in (IMAGES, TRACES):
        (plan.folder / name).mkdir(parents=True)
    for i, item in enumerate(plan.items):
        own = number * len(plan.items) + i
        content = add_number(pictures[i % DISTINCT], own)
        digests.append(hashlib.sha256(content).hexdigest())
        (plan.folder / IMAGES / item.name).write_bytes(content)
        if traces:
            (plan.folder / TRACES / item.name).write_bytes(add_number(traces[i % DISTINCT], own))
    return digests


def _build_record(plan: Plan) -> Mapping[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "label": plan.label,
        "config": plan.config,
        "identity": plan.identity,
        "choices": plan.choices,
        "prompts": len(plan.prompts),
        "images": len(plan.items),
        "batch_size": plan.config["batch_size"],
        "metrics": {
            name: metric.basis for name, metric in build_metrics(plan.config["metric"]).items()
        },
        "evaluations": {"rows": int(forecast_run(plan).forward), "images": len(plan.items)},
        "timings": {
            "sampling_seconds": 1.0,
            "images_sampled": len(plan.items),
            "scoring_seconds": 1.0,
        },
    }
