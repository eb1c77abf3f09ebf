"""Runs as files, written without a network: what reports and figures are made of."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyndm.subjects import Subject
from evaluation.runs.files import read_json, write_json
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    SCORES_FILE,
    Run,
    read_run,
    write_prompts,
)
from evaluation.runs.prompts import Prompt
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.traces import encode_trace, make_trace

Counts = tuple[int | None, int | None]
"""Surplus and missing things."""
Method = Mapping[str, Any]
"""Of an identity: its mask and its curve."""


def make_method(mask: str, curve: str, concavity: float = 0.5, **settings: Any) -> dict[str, Any]:
    """A mask and a curve of the library by the names of their classes, with the mask's settings."""
    return {
        "mask": {"_target_": f"asyndm.masks.{mask}", **settings},
        "curve": {"_target_": f"asyndm.curves.{curve}", "concavity": concavity},
    }


DM: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.NoMask"},
    "curve": {"_target_": "asyndm.curves.Linear"},
}
CONCAVE = make_method("GlobalMask", "Quadratic")
ASYNDM = make_method("DynamicMask", "Quadratic", threshold=1.0)
STATIC = make_method("StaticMask", "Quadratic", threshold=1.0)


def make_identity(method: Method, **changes: Any) -> dict[str, Any]:
    """A run's identity: of ten steps under this method, but for the changes."""
    return {
        "recipe": 1,
        "model": {"weights": "w", "dtype": "float32"},
        "guidance": {"guidance_scale": 5.0, "negative_prompt": None},
        "num_inference_steps": 10,
        "eta": 1.0,
        "seed": 0,
        "height": None,
        "width": None,
        **method,
        **changes,
    }


def write_run(
    root: Path,
    name: str,
    right: Sequence[float | None],
    method: Method,
    first: int = 0,
    prompt_set: Mapping[str, Any] | None = None,
    own_concavity: float | None = None,
    record: Mapping[str, Any] | None = None,
    counts: Sequence[Counts] | None = None,
    **changes: Any,
) -> None:
    """A run of prompts `first`, `first` + 1, ... with these scores and no pictures; every other
    prompt is of kind "two".

    Args:
        record: what ``run.json`` says beside what all of them say.
        counts: surplus and missing things of each.
        changes: of the identity.
    """
    identity = make_identity(method, **changes)
    config = {"model": {"name": "tiny"}, "prompt_set": prompt_set or {"name": "shapes"}}
    folder, seed = root / name, identity["seed"]
    basis = {"schema_version": 1, "config": config, "identity": identity, "timings": {}}
    write_json(folder / "run.json", {**basis, **(record or {})})
    write_json(folder / "state.json", {"state": "done" if None not in right else "running"})
    ids = [f"p{first + i}" for i in range(len(right))]
    kinds = ["two" if (first + i) % 2 else "one" for i in range(len(right))]
    subject = Subject("a", own_concavity)
    write_prompts(folder / PROMPTS_FILE, [Prompt(i, f"a {i}", (subject,)) for i in ids])
    images = [
        ImageRow(name, i, f"a {i}", (), kind, 0, seed, f"images/{i}.png", "")
        for i, kind in zip(ids, kinds, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)
    counts = counts or [(None, None)] * len(ids)
    scores = [
        ScoreRow(name, i, 0, "exact", value, "", *counted)
        for i, value, counted in zip(ids, right, counts, strict=True)
    ]
    write_rows(folder / SCORES_FILE, ScoreRow, scores)


def change_record(folder: Path, **changes: Any) -> None:
    """Makes ``run.json`` say these things as well."""
    write_json(folder / "run.json", {**read_json(folder / "run.json"), **changes})


def change_kinds(folder: Path, kinds: Sequence[str]) -> None:
    """Gives the pictures of a run these kinds."""
    images = [
        replace(image, kind=kind)
        for image, kind in zip(read_run(folder).images, kinds, strict=True)
    ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)


@dataclass(frozen=True)
class Made:
    """One picture to make: its prompt, its kind and its scores, with reasons where these are
    wrong, and by some metrics counts."""

    prompt: str
    kind: str = "one"
    seed: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    size: tuple[int, int] = (16, 16)
    counts: Mapping[str, Counts] = field(default_factory=dict)


def write_pictures(
    folder: Path,
    method: Method,
    pictures: Sequence[Made],
    own_concavity: float | None = None,
    metrics: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run's folder with these pictures, each of another colour, and a trace of each but under
    DM."""
    record = {
        "schema_version": 1,
        "config": {"model": {"name": "tiny"}, "prompt_set": {"name": "shapes"}},
        "identity": make_identity(method, **changes),
        "timings": {},
        "metrics": metrics or {},
    }
    write_json(folder / "run.json", record)
    write_json(folder / "state.json", {"state": "done"})
    ids = {text: f"p{i}" for i, text in enumerate(dict.fromkeys(made.prompt for made in pictures))}
    kinds = {made.prompt: made.kind for made in pictures}
    subject = Subject("dog", own_concavity)
    write_prompts(
        folder / PROMPTS_FILE,
        [Prompt(of, text, (subject,), kinds[text]) for text, of in ids.items()],
    )
    images, scores = [], []
    for made in pictures:
        name, key = f"{ids[made.prompt]}_{made.seed}.png", (ids[made.prompt], made.seed)
        picture = Image.new("RGB", made.size, choose_colour(f"{folder.name} {name}"))
        digest = save_png(folder / "images" / name, picture)
        if method is not DM:
            levels = np.linspace(1000, 0, 3)[:, None, None] * np.ones((3, 4, 4))
            levels[1, 0, 0] = 700
            content = encode_trace(make_trace([1, 5, 10], levels, np.ones((3, 1, 4, 4))))
            write_file(folder / "traces" / name, content)
        row = ImageRow(
            run_id=folder.name,
            prompt_id=key[0],
            prompt=made.prompt,
            subjects=("dog",),
            kind=made.kind,
            image_index=made.seed,
            seed=made.seed,
            file=f"images/{name}",
            sha256=digest,
        )
        images.append(row)
        scores += [
            ScoreRow(
                folder.name,
                *key,
                metric,
                value,
                "" if value else f"{metric}: no dog",
                *made.counts.get(metric, (None, None)),
            )
            for metric, value in made.scores.items()
        ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)
    write_rows(folder / SCORES_FILE, ScoreRow, scores)
    return read_run(folder)


def choose_colour(text: str) -> tuple[int, int, int]:
    """One that is another for each text."""
    red, green, blue = sha256(text.encode()).digest()[:3]
    return red, green, blue


def write_file(path: Path, content: bytes) -> str:
    """Writes a file, and its folder. Returns its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return sha256(content).hexdigest()


def save_png(path: Path, picture: Image.Image) -> str:
    """As `write_file`."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return write_file(path, buffer.getvalue())
