"""Pictures and prompts to rows of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing

from PIL import Image
from tqdm import tqdm

from evaluation.memory import Room, process_in_parts
from evaluation.messages import is_quiet
from evaluation.metrics import Metric, Score
from evaluation.pictures import Picture, open_or_explain
from evaluation.runs.locks import share_out
from evaluation.runs.rows import COUNTS, ScoreRow
from evaluation.runs.shared_rows import SharedRows


def score(metric: Metric, batch: Sequence[Picture], run_id: str, room: Room) -> list[ScoreRow]:
    """The rows of a batch. A picture that cannot be read has no value, and the reason says why.

    Raises:
        UserError: a GPU's memory does not suffice for one picture.
    """
    remedy = (
        f"metric {metric.name}: out of memory with one picture; choose dtype=bfloat16, device=cpu "
        "or a smaller model"
    )

    def rows(part: Sequence[Picture]) -> list[ScoreRow]:
        return _score_readable(metric, part, run_id)

    return [row for part in process_in_parts(batch, rows, room, remedy) for row in part]


def _score_readable(metric: Metric, batch: Sequence[Picture], run_id: str) -> list[ScoreRow]:
    read: list[Image.Image | Score] = [open_or_explain(picture.path) for picture in batch]
    images = [image for image in read if isinstance(image, Image.Image)]
    whose = [
        p.prompt for p, image in zip(batch, read, strict=True) if isinstance(image, Image.Image)
    ]
    found = iter(metric.score(images, whose) if images else [])
    scores = [image if isinstance(image, Score) else next(found) for image in read]
    return [
        ScoreRow(
            run_id,
            *picture.key,
            metric.name,
            score.value,
            score.reason,
            score.surplus,
            score.missing,
        )
        for picture, score in zip(batch, scores, strict=True)
    ]


def add_missing(
    table: SharedRows[ScoreRow],
    metric: Metric,
    pictures: Sequence[Picture],
    run_id: str,
    batch_size: int,
    mine: Callable[[int], bool] = lambda number: True,
    delay: float = 0,
    room: Room | None = None,
) -> int:
    """Scores the pictures that have no row of the metric, or one without what it counts, together
    with other processes that do the same.

    The batches are always the same ones, and one of which a row is missing is computed whole: the
    last bits of a score can depend on its company, and so do not on what was interrupted when.

    Args:
        mine: whether this process takes part in the batch of that number.
        delay: seconds before a progress bar appears.
        room: what is known of the memory; None: nothing.

    Returns:
        How many rows are new.
    """
    starts = range(0, len(pictures), batch_size)
    batches = [(i, pictures[s : s + batch_size]) for i, s in enumerate(starts) if mine(i)]
    new, room = 0, room or Room(batch_size)

    def missing(number: int) -> bool:
        table.refresh()
        return bool(find_unscored(batches[number][1], table.rows, metric))

    total = sum(len(batch) for _, batch in batches)
    todo = sum(len(find_unscored(batch, table.rows, metric)) for _, batch in batches)
    if not todo:
        table.mend()
        return 0
    with tqdm(total=total, unit="img", desc=metric.name, delay=delay, disable=is_quiet()) as bar:
        bar.update(total - todo)
        try:
            names = [f"{metric.name}-{i:05d}" for i, _ in batches]
            with closing(share_out(table.path.parent, names, missing)) as claimed:
                for number, _ in claimed:
                    rows = score(metric, batches[number][1], run_id, room)
                    added = [row for row in rows if _says_more(row, table.rows.get(row.place))]
                    table.put(added)
                    new += len(added)
                    bar.update(len(added))
        finally:
            table.save()
    return new


def find_unscored(
    pictures: Sequence[Picture], rows: Mapping[tuple[str, str, int], ScoreRow], metric: Metric
) -> list[Picture]:
    """The pictures of which the metric has no row, or one that lacks what it counts.

    Args:
        rows: all there are, by their place.
    """
    places = [(picture, (metric.name, *picture.key)) for picture in pictures]
    return [
        picture
        for picture, place in places
        if place not in rows or not says_all(rows[place], metric)
    ]


def says_all(row: ScoreRow, metric: Metric) -> bool:
    """Whether a row has what its metric counts: those of earlier checkouts have the value alone."""
    return not metric.counts_things or row.value is None or len(row.counts) == len(COUNTS)


def _says_more(row: ScoreRow, before: ScoreRow | None) -> bool:
    """Whether a row is to be kept: a value that is there goes for one with counts, never for
    none."""
    return before is None or len(row.counts) > len(before.counts)


def average_scores(rows: Iterable[ScoreRow]) -> dict[str, float]:
    """The mean of each metric over the images that have a value, and of what it counts, by the
    names of `ScoreRow.numbers`."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.numbers.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: sum(of) / len(of) for name, of in values.items()}
