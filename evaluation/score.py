"""Scores pictures that are there: of a run, or of any folder with a list of prompts. Nothing is
sampled.

    python -m evaluation.score runs/NAME metric=clip_original
    python -m evaluation.score runs metric=[clip_original,blip_vqa]          # all runs below
    python -m evaluation.score PICTURES --prompts prompts.csv metric=clip_original

``prompts.csv`` (or TSV, JSON lines, JSON, YAML) has the columns ``file`` (relative to the folder)
and ``text``, or others of their usual names (``image``, ``caption``), and may have ``phrases``
(separated by ``;``) and ``kind``; ``columns.text=NAME`` is for other names. A row's key in
``scores.csv`` then begins with the file's name. What is scored already is skipped; rows are added,
and none is changed. A run's picture that is no longer the one it lists is named and left out, with
its scores. Without ``metric=`` it is the exact checker of the shapes world.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asyndm.errors import UserError
from asyndm.terminal import ends_quietly, printable
from evaluation.choices import CONF, build_metrics
from evaluation.commands import Parser
from evaluation.messages import describe, hushed_hub
from evaluation.metrics import Metric
from evaluation.picture_lists import READ, listed
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    RUN_FILE,
    SCORES_FILE,
    read_prompts,
    read_record,
    runs_below,
)
from evaluation.runs.locks import LOCK_FILE, clear_claims
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.shared_rows import SharedRows
from evaluation.runs.stamps import CHANGED, changed_pictures
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


@ends_quietly()
@hushed_hub()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("evaluation.score", __doc__)
    parser.add_argument(
        "folder", type=Path, help="a run, a folder of runs, or a folder of pictures"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        help="metric=NAME, metric=[A,B], metric.NAME.SETTING=VALUE, columns.text=NAME",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="CSV",
        help="for a folder that is no run; also TSV, JSON lines, JSON or YAML",
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    chosen = parser.read(arguments)
    try:
        if chosen.batch_size < 1:
            raise UserError(f"--batch-size {chosen.batch_size}: must be at least 1")
        metrics, columns = compose_settings(chosen.settings)
        if chosen.prompts is not None:
            pictures = listed(chosen.folder, chosen.prompts, columns)
            return score_all({chosen.folder: pictures}, metrics, chosen.batch_size)
        if name := next(iter(columns), None):
            raise UserError(
                f"columns.{name}: is of a list; give --prompts CSV as well, or leave it out"
            )
        if not (runs := runs_below(chosen.folder)):
            raise UserError(
                f"{chosen.folder}: no runs there; for a folder of pictures give --prompts CSV"
            )
        work, status = {}, 0
        for folder in runs:
            try:
                work[folder], changed = of_run(folder)
                for path in changed:
                    status = _tell(UserError(f"{path}: {CHANGED}"))
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


def score_all(
    work: Mapping[Path, Sequence[Picture]], metrics: Mapping[str, Metric], batch_size: int
) -> int:
    """Every folder by every metric, a network loaded once for all folders. What is wrong with a
    metric or a folder is told before anything is scored, or when it happens, and all else goes on.

    Returns:
        The exit status: 1 where anything was wrong.
    """
    status, ready = 0, []
    shut: dict[Path, None] = {}
    tables: dict[Path, SharedRows[ScoreRow]] = {}
    for folder, pictures in work.items():
        try:
            tables[folder] = score_table(folder, pictures)
        except Exception as error:
            status = _tell(error)
            continue
        writable = _is_writable(folder)
        for metric in metrics.values():
            if not writable and unscored(pictures, tables[folder].rows, metric):
                shut[folder] = None
                continue
            try:
                check_folder(tables[folder], pictures, metric)
                ready.append((metric, folder))
            except Exception as error:
                status = _tell(error)
    if shut:
        status = _tell(_read_only(list(shut)))
    for metric in metrics.values():
        try:
            for folder in (folder for one, folder in ready if one is metric):
                try:
                    add_scores(tables[folder], work[folder], metric, batch_size)
                except Exception as error:
                    status = _tell(error)
        finally:
            metric.release()
    return status


def _is_writable(folder: Path) -> bool:
    """Whether scores can be kept there; where another's lock cannot be taken they cannot."""
    lock = folder / LOCK_FILE
    return os.access(folder, os.W_OK) and (not lock.exists() or os.access(lock, os.W_OK))


def _read_only(folders: Sequence[Path]) -> UserError:
    """That nothing can be written to these."""
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return UserError(
        f"{folders[0]}{more}: read-only, and scores are kept beside the pictures; "
        "score a copy of your own, or ask for the right to write there"
    )


def compose_settings(settings: Sequence[str]) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that ``metric=...`` asks for, and the columns that ``columns.KEY=NAME`` names.

    Raises:
        UserError: no metric, one that cannot be built, or a name that is none.
    """
    for given in filter(
        None, (re.match(r"\+{0,2}columns(?:\.([^=]*))?=", setting) for setting in settings)
    ):
        if given[1] not in READ:
            raise UserError(
                f"{given[0]}: no such column; choose from "
                f"{', '.join(f'columns.{key}' for key in READ)}"
            )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("score", list(settings))
    choices: Any = OmegaConf.to_container(config.metric, resolve=True)
    metrics = build_metrics(choices)
    if not metrics:
        raise UserError("metric=none: nothing to do; choose a metric")
    columns: Any = OmegaConf.to_container(config.columns, resolve=True)
    for key, name in columns.items():
        if isinstance(name, Mapping | list):
            raise UserError(f"columns.{key}={name}: give the name of a column")
    return metrics, {key: str(name) for key, name in columns.items() if name is not None}


def of_run(folder: Path) -> tuple[list[Picture], list[Path]]:
    """The pictures of a run, with its prompts, and those left out because they are not the ones
    that it lists.

    Raises:
        UserError: no run there, or a file of it that cannot be read.
    """
    read_record(folder)
    prompts, rows = read_prompts(folder / PROMPTS_FILE), read_rows(folder / IMAGES_FILE, ImageRow)
    if missing := next((row.prompt_id for row in rows if row.prompt_id not in prompts), None):
        raise UserError(f"{folder / PROMPTS_FILE}: no prompt {missing}, which {IMAGES_FILE} names")
    changed = {row.key: folder / row.file for row in changed_pictures(folder, rows)}
    kept = [row for row in rows if row.key not in changed]
    pictures = [Picture(folder / row.file, prompts[row.prompt_id], row.image_index) for row in kept]
    return pictures, list(changed.values())


def check_folder(table: SharedRows[ScoreRow], pictures: Sequence[Picture], metric: Metric) -> None:
    """Refuses what could not be scored.

    Raises:
        UserError: no pictures, scores of the same name that rest on something else, or what the
            metric refuses.
    """
    folder = table.path.parent
    if not pictures:
        raise UserError(f"{folder}: no pictures yet")
    todo = unscored(pictures, table.rows, metric)
    if len(todo) < len(pictures) and (basis := read_bases(folder).get(metric.name)) != metric.basis:
        remedy = (
            "experiments.run replaces them, this command never does"
            if (folder / RUN_FILE).exists()
            else f"move {SCORES_FILE} and metrics.json away"
        )
        raise UserError(
            f"{table.path}: has {metric.name} scores that rest on something else ({basis}); "
            f"{remedy}"
        )
    if todo:
        metric.check([picture.prompt for picture in todo], _size(pictures))


def add_scores(
    table: SharedRows[ScoreRow], pictures: Sequence[Picture], metric: Metric, batch_size: int
) -> None:
    """Adds the missing rows to a folder's ``scores.csv``, and says what all come to."""
    folder, name = table.path.parent, metric.name
    if unscored(pictures, table.rows, metric):
        write_basis(folder, metric)
    new = add_missing(table, metric, pictures, name_of(folder), batch_size)
    clear_claims(folder)
    found = [
        row for p in pictures if (row := table.rows.get((name, *p.key))) and row.value is not None
    ]
    mean = f"{means(found)[name]:.4f}" if found else "no scores"
    said = f"{folder}  {name} {mean}  {len(found)} of {len(pictures)} pictures, {new} new"
    print(printable(said), flush=True)


def _size(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Height and width of the first picture that can be read."""
    for picture in pictures:
        with suppress(Exception):
            image = open_image(picture.path)
            return image.height, image.width
    return 0, 0


def name_of(folder: Path) -> str:
    """The run's id, or the name of a folder that is no run."""
    name = folder.resolve().name
    return str(read_record(folder).get("run_id", name)) if (folder / RUN_FILE).exists() else name


if __name__ == "__main__":
    sys.exit(main())
