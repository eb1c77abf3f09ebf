"""Scores pictures that are there: of a run, or of any folder with a list of prompts. Nothing is sampled.

    python -m evaluation.score runs/NAME metric=clip_original
    python -m evaluation.score runs metric=[clip_original,blip_vqa]          # all runs below
    python -m evaluation.score PICTURES --prompts prompts.csv metric=clip_original

``prompts.csv`` has the columns ``file`` (relative to the folder) and ``text``, and may have ``phrases`` (separated by
``;``) and ``kind``; a row's key in ``scores.csv`` then begins with the file's name. What is scored already is skipped;
rows are added, and none is changed. Without ``metric=`` it is the exact checker of the shapes world.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asyndm.errors import UserError
from evaluation.choices import build_metrics
from evaluation.locks import clear_claims
from evaluation.messages import describe
from evaluation.metrics import Metric
from evaluation.results import (
    PROMPTS_FILE,
    RUN_FILE,
    SCORES_FILE,
    ScoreRow,
    read_record,
    read_rows,
    read_run,
    runs_below,
    sha256,
)
from evaluation.runs.prompts import Prompt, text_id
from evaluation.runs.rows import csv_rows, read_text, texts
from evaluation.scoring import (
    Picture,
    add_missing,
    means,
    open_image,
    read_bases,
    score_table,
    unscored,
    write_basis,
)

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
            return score_all(
                {chosen.folder: listed(chosen.folder, chosen.prompts)}, metrics, chosen.batch_size
            )
        if not (runs := runs_below(chosen.folder)):
            raise UserError(f"{chosen.folder}: no runs there; for a folder of pictures give --prompts CSV")
        work, status = {}, 0
        for folder in runs:
            try:
                work[folder] = of_run(folder)
            except Exception as error:
                status = _tell(error)
        return max(status, score_all(work, metrics, chosen.batch_size))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        return _tell(error)


def _tell(error: Exception) -> int:
    print(f"error: {describe(error)}", file=sys.stderr)
    return 1


def score_all(work: Mapping[Path, Sequence[Picture]], metrics: Mapping[str, Metric], batch_size: int) -> int:
    """Every folder by every metric, a network loaded once for all folders. What is wrong with a metric or a folder is
    told before anything is scored, or when it happens, and all else goes on.

    Returns:
        The exit status: 1 where anything was wrong.
    """
    status, ready = 0, []
    for metric in metrics.values():
        for folder, pictures in work.items():
            try:
                check_folder(folder, pictures, metric)
                ready.append((metric, folder))
            except Exception as error:
                status = _tell(error)
    for metric in metrics.values():
        try:
            for folder in (folder for one, folder in ready if one is metric):
                try:
                    add_scores(folder, work[folder], metric, batch_size)
                except Exception as error:
                    status = _tell(error)
        finally:
            metric.release()
    return status


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
    """The pictures that a CSV lists. A picture is known by its file's name, content, text and phrases together: one that
    has changed is another one. A file that is not there is kept, and cannot be scored.

    Raises:
        UserError: no such folder or file, a malformed row, one without file or text, no rows, no files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file")
    pictures: dict[str, Picture] = {}
    for line, row in csv_rows(path, read_text(path)):
        name, text = (row.get("file") or "").strip(), (row.get("text") or "").strip()
        if not name or not text:
            raise UserError(f"{path}, line {line}: needs file and text")
        file, phrases = folder / name, texts(row, "phrases")
        content = sha256(file) if file.is_file() else ""
        said = hashlib.sha256("\n".join((content, text, *phrases)).encode()).hexdigest()[:8]
        prompt = Prompt(f"{text_id(name)}-{said}", text, (), row.get("kind") or "", phrases)
        pictures[prompt.prompt_id] = Picture(file, prompt)
    if not pictures:
        raise UserError(f"{path}: no rows")
    if not any(picture.path.is_file() for picture in pictures.values()):
        raise UserError(f"{path}: none of its files is in {folder}")
    return list(pictures.values())


def check_folder(folder: Path, pictures: Sequence[Picture], metric: Metric) -> None:
    """Refuses what could not be scored.

    Raises:
        UserError: no pictures, scores of the same name that rest on something else, or what the metric refuses.
    """
    if not pictures:
        raise UserError(f"{folder}: no pictures yet")
    todo = unscored(pictures, read_rows(folder / SCORES_FILE, ScoreRow), metric)
    if len(todo) < len(pictures) and (basis := read_bases(folder).get(metric.name)) != metric.basis:
        remedy = (
            "experiments.run replaces them, this command never does"
            if (folder / RUN_FILE).exists()
            else f"move {SCORES_FILE} and metrics.json away"
        )
        raise UserError(
            f"{folder / SCORES_FILE}: has {metric.name} scores that rest on something else ({basis}); {remedy}"
        )
    if todo:
        metric.check([picture.prompt for picture in todo], _size(pictures))


def add_scores(folder: Path, pictures: Sequence[Picture], metric: Metric, batch_size: int) -> None:
    """Adds the missing rows to the folder's ``scores.csv``, after every batch, and says what they come to.

    Raises:
        UserError: a row of the file that cannot be read.
    """
    name = metric.name
    table = score_table(folder, pictures)
    if unscored(pictures, table.rows.values(), metric):
        write_basis(folder, metric)
    new = add_missing(table, metric, pictures, name_of(folder), batch_size)
    clear_claims(folder)
    keys = {picture.key for picture in pictures}
    found = [
        row for row in table.rows.values() if row.metric == name and row.value is not None and row.key in keys
    ]
    mean = f"{means(found)[name]:.4f}" if found else "no scores"
    print(
        f"{folder}  {name} {mean}  {len(found)} of {len(pictures)} pictures, {new} new",
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
