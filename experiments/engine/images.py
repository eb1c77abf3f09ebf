"""The pictures of a run and their list: what is missing or not the listed picture is made, what is
there is listed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from evaluation.messages import counted
from evaluation.runs.files import sha256
from evaluation.runs.folder import IMAGES_FILE, SCORES_FILE
from evaluation.runs.rows import ImageRow
from evaluation.runs.shared_rows import SharedRows
from evaluation.runs.stamps import Stamps
from evaluation.scoring import Picture, score_table
from experiments.engine.folder import batch_size, missing_items, wants_strip
from experiments.engine.heartbeat import Progress
from experiments.engine.plan import Item, Plan
from experiments.engine.record import add_timings, begin_record, has_record, threads_as_begun
from experiments.engine.sampling import load_model, sample_missing

Key = tuple[str, int]
"""An image within a run: its prompt's id, and its place among the images of that prompt."""


class Listing:
    """A run's ``images.csv``, in the order of the plan, as it was found and as its pictures are
    now."""

    def __init__(self, plan: Plan) -> None:
        rank = {item.key: i for i, item in enumerate(plan.items)}
        self.plan = plan
        self.table: SharedRows[ImageRow] = SharedRows(
            plan.folder / IMAGES_FILE,
            ImageRow,
            lambda rows: sorted(
                (row for row in rows if row.key in rank), key=lambda row: rank[row.key]
            ),
        )
        self.changed: set[Key] = set()
        self._before = dict(self.table.rows)
        self._stamps = Stamps(plan.folder)

    def is_swapped(self, item: Item) -> bool:
        """Whether the picture, which is there, is another one than was listed."""
        row = self._before.get(item.key)
        return row is not None and not self._stamps.is_listed(replace(row, file=item.file))

    def is_unlisted(self, item: Item) -> bool:
        """Whether the picture, which is there, has no row: it was made by a process that was killed
        before it listed it, or the row was lost."""
        return item.key not in self.table.rows

    def is_another(self, item: Item) -> bool:
        """Whether the picture is another one than when it was last read."""
        return self._stamps.is_another(item.file)

    def put(self, item: Item) -> None:
        """Lists a picture. If it is another one than before its scores go first, so that an
        interruption leaves no score of another picture."""
        row, before = self._row(item), self._before.get(item.key)
        if before is not None and before.sha256 != row.sha256 and item.key not in self.changed:
            self.changed.add(item.key)
            drop_scores(self.plan, {item.key})
        if self.table.rows.get(item.key) != row:
            self.table.put([row])

    def save(self) -> None:
        """Writes what was put."""
        self.table.save()
        self._stamps.save()

    def _row(self, item: Item) -> ImageRow:
        prompt = item.prompt
        return ImageRow(
            self.plan.run_id,
            prompt.prompt_id,
            prompt.text,
            tuple(subject.text for subject in prompt.subjects),
            prompt.kind,
            item.image_index,
            item.seed,
            item.file,
            self._stamps.sha256(item.file) or sha256(self.plan.folder / item.file),
        )


def make_images(plan: Plan, progress: Progress, told: Callable[[int], None]) -> None:
    """Samples the missing images of this part and brings ``images.csv`` up to date.

    Args:
        plan: of the run.
        progress: told how far it is.
        told: called with the number of images listed, after each that is made.
    """
    listing, made = Listing(plan), 0
    own = [item for _, batch in plan.batches(batch_size(plan)) for item in batch]

    def saved(item: Item) -> None:
        nonlocal made
        made += 1
        listing.put(item)
        progress.tell(made=made, there=there + made)
        told(len(listing.table.rows))

    try:
        missing = _prepare(plan, listing, own, progress.owner)
        progress.tell(part=len(own), there=len(own) - len(missing))
        if (
            missing
            or (wants_strip(plan) and own[:1] == list(plan.items[:1]))
            or not has_record(plan)
        ):
            progress.tell(phase="loading")
            pipe = load_model(plan)
            record = begin_record(plan, pipe, samples=bool(missing))
            own = [item for _, batch in plan.batches(record["batch_size"]) for item in batch]
            there = len(own) - len(missing_items(plan, own))
            progress.tell(phase="sampling", part=len(own), there=there, loaded=progress.seconds)
            started = time.perf_counter()
            try:
                with threads_as_begun(plan):
                    sample_missing(plan, record["batch_size"], pipe, saved)
            finally:
                seconds = time.perf_counter() - started
                add_timings(plan, pipe, sampling_seconds=seconds, images_sampled=made)
            listing.table.refresh()
            for item in own:
                if item.key not in listing.table.rows:
                    listing.put(item)
    finally:
        listing.save()
    if listing.changed:
        print(
            f"warning: {plan.folder.name}: {counted(len(listing.changed), 'image')} came back "
            "different "
            "(machine, libraries?)",
            file=sys.stderr,
        )


def _prepare(plan: Plan, listing: Listing, own: Sequence[Item], may_remove: bool) -> set[Item]:
    """Lists what is there, and takes away what is to be made anew.

    Args:
        plan: of the run.
        listing: its pictures.
        own: those that this process makes.
        may_remove: whether it decides what becomes of pictures that are not the listed ones.

    Returns:
        the missing ones.
    """
    missing = missing_items(plan, own)
    if may_remove:
        listing.table.refresh()
    unlisted = [item for item in own if item not in missing and listing.is_unlisted(item)]
    swapped = [item for item in own if item not in missing and listing.is_swapped(item)]
    swapped += [item for item in unlisted if listing.is_another(item)]
    others = missing.union(swapped)
    if may_remove and (
        lost := drop_scores(plan, {item.key for item in unlisted if item not in others})
    ):
        print(
            f"warning: {plan.folder.name}: {counted(len(lost), 'scored picture')} not in "
            f"{IMAGES_FILE}; listed and "
            "scored anew",
            file=sys.stderr,
        )
    for item in own:
        if item not in others:
            listing.put(item)
    if swapped and may_remove:
        print(
            f"warning: {plan.folder.name}: {counted(len(swapped), 'picture')} other than "
            f"{IMAGES_FILE} lists, the first "
            f"{swapped[0].name}; made anew, with their scores",
            file=sys.stderr,
        )
        drop_scores(plan, {item.key for item in swapped})
        for item in swapped:
            (plan.folder / item.file).unlink(missing_ok=True)
        missing = others
    drop_scores(plan, {item.key for item in missing}, without_value=True)
    return missing


def scored(plan: Plan) -> list[Picture]:
    """The pictures of a run, to be scored."""
    return [Picture(plan.folder / item.file, item.prompt, item.image_index) for item in plan.items]


def drop_scores(plan: Plan, keys: Collection[Key], without_value: bool = False) -> set[Key]:
    """Takes scores of these pictures out of ``scores.csv``.

    Args:
        plan: of the run.
        keys: of the pictures.
        without_value: only those that say why there is none; a picture that was not there is
            another matter once it is.

    Returns:
        of these pictures, those that had such scores.
    """
    if not keys or not (plan.folder / SCORES_FILE).exists():
        return set()
    table = score_table(plan.folder, scored(plan))
    dropped = {
        place: row.key
        for place, row in table.rows.items()
        if row.key in keys and not (without_value and row.value is not None)
    }
    table.drop(dropped)
    return set(dropped.values())
