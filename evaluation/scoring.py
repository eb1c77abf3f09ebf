"""Pictures and prompts to rows of scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from asyndm.errors import UserError, first_line
from asyndm.prompts import Prompt
from evaluation.metrics import Metric, Score
from evaluation.results import RUN_FILE, ScoreRow, read_json, read_record, read_rows, write_json, write_rows

BASES_FILE = "metrics.json"
"""In a folder that is no run: what the scores of each metric rest on."""


@dataclass(frozen=True)
class Picture:
    """A file, its prompt, and its place among the pictures of that prompt."""

    path: Path
    prompt: Prompt
    image_index: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.prompt_id, self.image_index


def open_image(path: Path) -> Image.Image:
    """A picture in memory, 8 bits a channel, upright as its camera says, its file closed."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright) // 257).clip(0, 255).astype(np.uint8))
        return Image.fromarray(np.asarray(upright.convert("RGB")))


def score(
    metric: Metric, pictures: Sequence[Picture], run_id: str, batch_size: int
) -> Iterator[list[ScoreRow]]:
    """The rows of one batch after another.

    A picture that cannot be read has no value, and the reason says why. A batch for which a GPU's memory does not
    suffice is scored in halves, and all after it are no larger.

    Raises:
        UserError: the memory does not suffice for one picture.
    """
    start, size = 0, batch_size
    while start < len(pictures):
        try:
            rows = _rows(metric, pictures[start : start + size], run_id)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if size == 1:
                raise UserError(
                    f"metric {metric.name}: out of memory with a single picture; choose dtype=bfloat16, "
                    "device=cpu or a smaller model"
                ) from error
            size = (min(size, len(pictures) - start) + 1) // 2
            continue
        yield rows
        start += len(rows)


def _rows(metric: Metric, batch: Sequence[Picture], run_id: str) -> list[ScoreRow]:
    read: list[Image.Image | Score] = [opened(picture.path) for picture in batch]
    images = [image for image in read if isinstance(image, Image.Image)]
    whose = [p.prompt for p, image in zip(batch, read, strict=True) if isinstance(image, Image.Image)]
    found = iter(metric.score(images, whose) if images else [])
    scores = [image if isinstance(image, Score) else next(found) for image in read]
    return [
        ScoreRow(run_id, *picture.key, metric.name, score.value, score.reason)
        for picture, score in zip(batch, scores, strict=True)
    ]


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory was the matter; frees what can be."""
    import torch

    if not isinstance(error, torch.OutOfMemoryError):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def add_missing(
    path: Path, metric: Metric, pictures: Sequence[Picture], run_id: str, batch_size: int, delay: float = 0
) -> tuple[list[ScoreRow], int]:
    """Scores the pictures that have no row of the metric in the CSV at `path`, which is written after every batch.

    Args:
        delay: seconds before a progress bar appears.

    Returns:
        All rows of the file, and how many of them are new.
    """
    rows = read_rows(path, ScoreRow)
    todo = unscored(pictures, rows, metric)
    if todo:
        done = len(pictures) - len(todo)
        with tqdm(total=len(pictures), initial=done, unit="img", desc=metric.name, delay=delay) as bar:
            for batch in score(metric, todo, run_id, batch_size):
                rows += batch
                write_rows(path, ScoreRow, rows)
                bar.update(len(batch))
    return rows, len(todo)


def unscored(pictures: Sequence[Picture], rows: Sequence[ScoreRow], metric: Metric) -> list[Picture]:
    """The pictures of which the metric has no row."""
    done = {row.key for row in rows if row.metric == metric.name}
    return [picture for picture in pictures if picture.key not in done]


def means(rows: Iterable[ScoreRow]) -> dict[str, float]:
    """The mean of each metric over the images that have a value."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.value is not None:
            values.setdefault(row.metric, []).append(row.value)
    return {name: sum(of) / len(of) for name, of in values.items()}


def read_bases(folder: Path) -> dict[str, Any]:
    """What the scores of each metric in the folder, a run's or another, rest on."""
    if (folder / RUN_FILE).exists():
        return dict(read_record(folder).get("metrics", {}))
    path = folder / BASES_FILE
    return dict(read_json(path)) if path.exists() else {}


def write_basis(folder: Path, metric: Metric) -> None:
    """Notes what all scores of this metric in the folder rest on."""
    bases = {**read_bases(folder), metric.name: metric.basis}
    if (folder / RUN_FILE).exists():
        write_json(folder / RUN_FILE, {**read_record(folder), "metrics": bases})
    else:
        write_json(folder / BASES_FILE, bases)


def opened(path: Path) -> Image.Image | Score:
    """A picture in memory; where it cannot be read, a score without value that says why."""
    try:
        return open_image(path)
    except Exception as error:  # Pillow has some six kinds for a broken file
        return Score(None, f"not a readable picture ({first_line(error)})")
