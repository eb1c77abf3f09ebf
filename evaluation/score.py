"""Scores pictures that are there: of a run, or of any folder with a list of prompts. Nothing is
sampled.

    python -m evaluation.score runs/NAME metric=clip_original
    python -m evaluation.score runs metric=[clip_original,blip_vqa]  # all runs below
    python -m evaluation.score PICTURES --prompts prompts.csv metric=clip_original

``prompts.csv`` (or TSV, JSON lines, JSON, YAML) has the columns ``file`` (relative to the folder)
and ``text``, or others of their usual names (``image``, ``caption``), and may have ``phrases``
(separated by ``;``) and ``kind``; ``columns.text=NAME`` is for other names. A row's key in
``scores.csv`` then begins with the file's name. What is scored already is skipped; rows are added,
and none is changed. A run's picture that is no longer the one it lists is named and left out, with
its scores. Without ``metric=`` it is the exact checker of the shapes world.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.choices import build_metrics
from evaluation.commands import Parser, command_line, tell_error
from evaluation.compose import compose
from evaluation.messages import did_you_mean, hush_hub, name_first
from evaluation.metrics import Metric
from evaluation.pictures import READ, Picture, read_pictures, read_run_pictures
from evaluation.runs.folder import BASES_FILE, SCORES_FILE, RunFolder, find_runs_below
from evaluation.runs.images import open_image
from evaluation.runs.locks import clear_claims
from evaluation.runs.stamps import CHANGED
from evaluation.scoring import (
    add_missing,
    average_scores,
    find_unscored,
)


@command_line(errors=(Exception,), resumes=True)
@hush_hub()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("evaluation.score", __doc__)
    parser.add_argument(
        "folder", type=Path, help="a run, a folder of runs, or a folder of pictures"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],  # or argparse says that settings are required where the folder is missing
        help="metric=NAME, metric=[A,B], metric.NAME.SETTING=VALUE, columns.text=NAME",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="CSV",
        help="for a folder that is no run; also TSV, JSON lines, JSON or YAML",
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pictures a metric sees at once"
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of your own metrics, as for experiments.run",
    )
    chosen = parser.read(arguments)
    if chosen.batch_size < 1:
        raise UserError(f"--batch-size {chosen.batch_size}: must be at least 1")
    metrics, columns = choose(chosen.settings, chosen.config_dir)
    if chosen.prompts is not None:
        pictures = read_pictures(chosen.folder, chosen.prompts, columns)
        return score_all({chosen.folder: pictures}, metrics, chosen.batch_size)
    if name := next(iter(columns), None):
        raise UserError(
            f"columns.{name}: is of a list; give --prompts CSV as well, or leave it out"
        )
    if not (runs := find_runs_below(chosen.folder)):
        raise UserError(
            f"{chosen.folder}: no runs there; for a folder of pictures give --prompts CSV"
        )
    work, status = {}, 0
    for folder in runs:
        try:
            work[folder], changed = read_run_pictures(folder)
            for path in changed:
                status = _tell(UserError(f"{path}: {CHANGED}"))
        except Exception as error:  # whatever is wrong with one run, the others are scored
            status = _tell(error)
    return max(status, score_all(work, metrics, chosen.batch_size))


def _tell(error: Exception) -> int:
    tell_error(error)
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
    folders: dict[Path, RunFolder] = {}
    for folder, pictures in work.items():
        try:
            folders[folder] = RunFolder(folder, [picture.key for picture in pictures])
            folders[folder].scores.refresh()
            rows = folders[folder].scores.rows
        except Exception as error:
            status = _tell(error)
            continue
        writable = folders[folder].is_writable
        for metric in metrics.values():
            if not writable and find_unscored(pictures, rows, metric):
                shut[folder] = None
                continue
            try:
                check_folder(folders[folder], pictures, metric)
                ready.append((metric, folder))
            except Exception as error:
                status = _tell(error)
    if shut:
        status = _tell(_explain_read_only(list(shut)))
    for metric in metrics.values():
        try:
            for folder in (folder for one, folder in ready if one is metric):
                try:
                    add_scores(folders[folder], work[folder], metric, batch_size)
                except Exception as error:
                    status = _tell(error)
        finally:
            metric.release()
    return status


def _explain_read_only(folders: Sequence[Path]) -> UserError:
    """That nothing can be written to these."""
    return UserError(
        f"{name_first(folders)}: read-only, and scores are kept beside the pictures; "
        "score a copy of your own, or ask for the right to write there"
    )


def choose(
    settings: Sequence[str], config_dirs: Sequence[Path] = ()
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that ``metric=...`` asks for, and the columns that ``columns.KEY=NAME`` names.

    Raises:
        UserError: no metric, one that cannot be built, or a name that is none.
    """
    for setting in settings:
        _check_column(setting)
    config = compose(settings, config_dirs)
    choices, columns = config["metric"], config["columns"]
    assert isinstance(columns, dict)
    if not isinstance(choices, dict):
        raise UserError(f"metric={choices}: not a choice of metrics")
    metrics = build_metrics(choices)
    if not metrics:
        emptied = " ".join(text for text in settings if re.match(r"[~+]*metric\b", text))
        raise UserError(f"{emptied}: nothing to do; choose a metric")
    for key, name in columns.items():
        if isinstance(name, Mapping | list):
            raise UserError(f"columns.{key}={name}: give the name of a column")
    return metrics, {key: str(name) for key, name in columns.items() if name is not None}


def _check_column(setting: str) -> None:
    """Refuses a setting of columns that names none of those that are read."""
    given = re.match(r"[~+]*(columns(?:\.([^=]*))?)(?:=|$)", setting)
    if given is not None and given[2] not in READ:
        known = [f"columns.{key}" for key in READ]
        raise UserError(
            f"{setting}: no such column{did_you_mean(given[1], known)}; "
            f"choose from {', '.join(known)}"
        )


def check_folder(folder: RunFolder, pictures: Sequence[Picture], metric: Metric) -> None:
    """Refuses what could not be scored.

    Raises:
        UserError: no pictures, scores of the same name that rest on something else, or what the
            metric refuses.
    """
    if not pictures:
        raise UserError(f"{folder.path}: no pictures yet")
    rows = folder.scores.rows
    todo = find_unscored(pictures, rows, metric)
    is_begun = any((metric.name, *picture.key) in rows for picture in pictures)
    if is_begun and (basis := folder.bases.get(metric.name)) != metric.basis:
        remedy = (
            "experiments.run replaces them, this command never does"
            if folder.is_run
            else f"move {SCORES_FILE} and {BASES_FILE} away"
        )
        raise UserError(
            f"{folder.scores.path}: has {metric.name} scores that rest on something else "
            f"({basis}); {remedy}"
        )
    if todo:
        metric.check([picture.prompt for picture in todo], _read_size(pictures))


def add_scores(
    folder: RunFolder, pictures: Sequence[Picture], metric: Metric, batch_size: int
) -> None:
    """Adds the missing rows to a folder's ``scores.csv``, and says what all come to."""
    name, rows = metric.name, folder.scores.rows
    if find_unscored(pictures, rows, metric):
        folder.note_basis(name, metric.basis)
    new = add_missing(folder.scores, metric, pictures, folder.run_id, batch_size)
    clear_claims(folder.path)
    rows = folder.scores.rows
    found = [row for p in pictures if (row := rows.get((name, *p.key))) and row.value is not None]
    means = [f"{number} {mean:.4f}" for number, mean in average_scores(found).items()]
    mean = "  ".join(means) or f"{name} no scores"
    said = f"{folder.path}  {mean}  {len(found)} of {len(pictures)} pictures, {new} new"
    print(printable(said), flush=True)


def _read_size(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Height and width of the first picture that can be read."""
    for picture in pictures:
        with suppress(Exception):
            image = open_image(picture.path)
            return image.height, image.width
    return 0, 0


if __name__ == "__main__":
    sys.exit(main())
