"""Scores pictures that are there: of a run, or of any folder with a list of prompts. Nothing is sampled.

    python -m evaluation.score runs/NAME metric=clip_original
    python -m evaluation.score runs metric=[clip_original,blip_vqa]          # all runs below
    python -m evaluation.score PICTURES --prompts prompts.csv metric=clip_original

``prompts.csv`` has the columns ``file`` (relative to the folder) and ``text``, and may have ``phrases`` (separated by
``;``) and ``kind``. What is scored already is skipped; rows are added to ``scores.csv``, and none is changed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

from asyndm.errors import UserError
from asyndm.prompts import Prompt, text_id
from evaluation.choices import build_metrics
from evaluation.messages import describe
from evaluation.metrics import Metric
from evaluation.results import (
    PROMPTS_FILE,
    RUN_FILE,
    SCORES_FILE,
    ScoreRow,
    find_runs,
    locked,
    read_json,
    read_prompts,
    read_rows,
    read_run,
    write_json,
    write_rows,
)
from evaluation.scoring import Picture, open_image, score

CONF = Path(__file__).resolve().parent.parent / "conf"
BASES_FILE = "metrics.json"
"""In a folder that is no run: what the scores of each metric rest on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a run, a folder of runs, or a folder of pictures")
    parser.add_argument("settings", nargs="*", help="metric=NAME, metric=[A,B], metric.NAME.SETTING=VALUE")
    parser.add_argument("--prompts", type=Path, metavar="CSV", help="for a folder that is no run")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        if chosen.batch_size < 1:
            raise UserError(f"--batch-size {chosen.batch_size}: must be at least 1")
        metrics = compose_metrics(chosen.settings)
        if chosen.prompts is not None:
            add_scores(chosen.folder, listed(chosen.folder, chosen.prompts), metrics, chosen.batch_size)
            return 0
        return max([_score_run(folder, metrics, chosen.batch_size) for folder in find_runs([chosen.folder])])
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1


def _score_run(folder: Path, metrics: dict[str, Metric], batch_size: int) -> int:
    """One run; what is wrong with it is told, and the next one is scored all the same."""
    try:
        add_scores(folder, of_run(folder), metrics, batch_size)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compose_metrics(settings: Sequence[str]) -> dict[str, Metric]:
    """The metrics that ``metric=...`` asks for.

    Raises:
        UserError: none of them, or one that cannot be built.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("score", list(settings))
    choices: Any = OmegaConf.to_container(config.metric, resolve=True)
    metrics = build_metrics(choices)
    if not metrics:
        raise UserError("metric=none: nothing to do; choose a metric")
    return metrics


def of_run(folder: Path) -> list[Picture]:
    """The pictures of a run, with its prompts."""
    prompts = read_prompts(folder / PROMPTS_FILE)
    images = read_run(folder).images
    if missing := next((row.prompt_id for row in images if row.prompt_id not in prompts), None):
        raise UserError(f"{folder / PROMPTS_FILE}: no prompt {missing}, which images.csv names")
    return [Picture(folder / row.file, prompts[row.prompt_id], row.image_index) for row in images]


def listed(folder: Path, path: Path) -> list[Picture]:
    """The pictures that a CSV lists, those of equal prompts counted from 0.

    Raises:
        UserError: no such folder or file, a row without file or text, a picture that is not there, no rows.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file")
    seen: dict[str, int] = {}
    pictures = []
    for place, row in _rows(path):
        name, text = (row.get("file") or "").strip(), (row.get("text") or "").strip()
        if not name or not text:
            raise UserError(f"{place}: needs file and text")
        if not (folder / name).is_file():
            raise UserError(f"{place}: no file {name} in {folder}")
        phrases = tuple(part.strip() for part in (row.get("phrases") or "").split(";") if part.strip())
        prompt = Prompt(text_id(text), text, (), row.get("kind") or "", phrases)
        index = seen[prompt.prompt_id] = seen.get(prompt.prompt_id, -1) + 1
        pictures.append(Picture(folder / name, prompt, index))
    if not pictures:
        raise UserError(f"{path}: no rows")
    return pictures


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def add_scores(
    folder: Path, pictures: Sequence[Picture], metrics: dict[str, Metric], batch_size: int
) -> None:
    """Adds the missing rows to the folder's ``scores.csv``, after every batch, and says what they come to.

    Raises:
        UserError: scores of the same name are there that rest on something else, or what a metric refuses.
    """
    if not pictures:
        raise UserError(f"{folder}: no pictures yet")
    size = next((s for s in map(_size, pictures) if s is not None), (0, 0))
    with locked(folder):
        rows, bases = read_rows(folder / SCORES_FILE, ScoreRow), read_bases(folder)
        for name, metric in metrics.items():
            done = {row.key for row in rows if row.metric == name}
            if done and bases.get(name) != metric.basis:
                raise UserError(
                    f"{folder / SCORES_FILE}: has {name} scores that rest on something else ({bases.get(name)}); "
                    "experiments.run replaces them, this command never does"
                )
            todo = [picture for picture in pictures if picture.key not in done]
            if todo:
                metric.check([picture.prompt for picture in todo], size)
                write_bases(folder, {**bases, name: metric.basis})
            bases[name] = metric.basis
            with tqdm(total=len(pictures), initial=len(pictures) - len(todo), unit="img", desc=name) as bar:
                for batch in score(metric, todo, read_id(folder), batch_size):
                    rows += batch
                    write_rows(folder / SCORES_FILE, ScoreRow, rows)
                    bar.update(len(batch))
            values = [row.value for row in rows if row.metric == name and row.value is not None]
            mean = f"{sum(values) / len(values):.4f}" if values else "no scores"
            print(
                f"{folder}  {name} {mean}  {len(values)} of {len(pictures)} pictures, {len(todo)} new",
                flush=True,
            )


def _size(picture: Picture) -> tuple[int, int] | None:
    try:
        image = open_image(picture.path)
    except Exception:
        return None
    return image.height, image.width


def read_id(folder: Path) -> str:
    """The run's id, or the name of a folder that is no run."""
    return str(read_run(folder).record["run_id"]) if (folder / RUN_FILE).exists() else folder.resolve().name


def read_bases(folder: Path) -> dict[str, Any]:
    """What the scores of each metric in the folder rest on."""
    if (folder / RUN_FILE).exists():
        return dict(read_run(folder).record.get("metrics", {}))
    path = folder / BASES_FILE
    return dict(read_json(path)) if path.exists() else {}


def write_bases(folder: Path, bases: dict[str, Any]) -> None:
    """The inverse of `read_bases`."""
    if (folder / RUN_FILE).exists():
        write_json(folder / RUN_FILE, {**read_run(folder).record, "metrics": bases})
    else:
        write_json(folder / BASES_FILE, bases)


if __name__ == "__main__":
    sys.exit(main())
