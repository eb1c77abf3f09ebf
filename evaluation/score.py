"""Scores pictures that are there: of a run, or of any folder with a list of prompts. Nothing is sampled.

    python -m evaluation.score runs/NAME metric=clip_original
    python -m evaluation.score runs metric=[clip_original,blip_vqa]          # all runs below
    python -m evaluation.score PICTURES --prompts prompts.csv metric=clip_original

``prompts.csv`` has the columns ``file`` (relative to the folder) and ``text``, and may have ``phrases`` (separated by
``;``) and ``kind``. What is scored already is skipped; rows are added to ``scores.csv``, and none is changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

from asyndm.errors import UserError
from asyndm.prompts import Prompt, text_id
from asyndm.rows import csv_rows, read_text, texts
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
    read_record,
    read_rows,
    read_run,
    write_rows,
)
from evaluation.scoring import Picture, means, open_image, read_bases, score, write_basis

CONF = Path(__file__).resolve().parent.parent / "conf"


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
    run = read_run(folder)
    if missing := next((row.prompt_id for row in run.images if row.prompt_id not in run.prompts), None):
        raise UserError(f"{folder / PROMPTS_FILE}: no prompt {missing}, which images.csv names")
    return [Picture(folder / row.file, run.prompts[row.prompt_id], row.image_index) for row in run.images]


def listed(folder: Path, path: Path) -> list[Picture]:
    """The pictures that a CSV lists, those of equal prompts counted from 0.

    Raises:
        UserError: no such folder or file, a malformed row, one without file or text, a lost picture, no rows.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file")
    seen: dict[str, int] = {}
    pictures = []
    for line, row in csv_rows(path, read_text(path)):
        place = f"{path}, line {line}"
        name, text = (row.get("file") or "").strip(), (row.get("text") or "").strip()
        if not name or not text:
            raise UserError(f"{place}: needs file and text")
        if not (folder / name).is_file():
            raise UserError(f"{place}: no file {name} in {folder}")
        prompt = Prompt(text_id(text), text, (), row.get("kind") or "", texts(row, "phrases"))
        index = seen[prompt.prompt_id] = seen.get(prompt.prompt_id, -1) + 1
        pictures.append(Picture(folder / name, prompt, index))
    if not pictures:
        raise UserError(f"{path}: no rows")
    return pictures


def add_scores(
    folder: Path, pictures: Sequence[Picture], metrics: dict[str, Metric], batch_size: int
) -> None:
    """Adds the missing rows to the folder's ``scores.csv``, after every batch, and says what they come to.

    Raises:
        UserError: scores of the same name are there that rest on something else, or what a metric refuses.
    """
    if not pictures:
        raise UserError(f"{folder}: no pictures yet")
    with locked(folder):
        rows, bases, run_id = read_rows(folder / SCORES_FILE, ScoreRow), read_bases(folder), name_of(folder)
        for name, metric in metrics.items():
            done = {row.key for row in rows if row.metric == name}
            if done and bases.get(name) != metric.basis:
                raise UserError(
                    f"{folder / SCORES_FILE}: has {name} scores that rest on something else ({bases.get(name)}); "
                    "experiments.run replaces them, this command never does"
                )
            todo = [picture for picture in pictures if picture.key not in done]
            if todo:
                metric.check([picture.prompt for picture in todo], _size(pictures))
                write_basis(folder, metric)
            with tqdm(total=len(pictures), initial=len(pictures) - len(todo), unit="img", desc=name) as bar:
                for batch in score(metric, todo, run_id, batch_size):
                    rows += batch
                    write_rows(folder / SCORES_FILE, ScoreRow, rows)
                    bar.update(len(batch))
            of_metric = [row for row in rows if row.metric == name and row.value is not None]
            mean = f"{means(of_metric)[name]:.4f}" if of_metric else "no scores"
            print(
                f"{folder}  {name} {mean}  {len(of_metric)} of {len(pictures)} pictures, {len(todo)} new",
                flush=True,
            )


def _size(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Height and width of the first picture that can be read."""
    for picture in pictures:
        with suppress(Exception):
            image = open_image(picture.path)
            return image.height, image.width
    return 0, 0


def name_of(folder: Path) -> str:
    """The run's id, or the name of a folder that is no run."""
    return str(read_record(folder)["run_id"]) if (folder / RUN_FILE).exists() else folder.resolve().name


if __name__ == "__main__":
    sys.exit(main())
