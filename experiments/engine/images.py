"""The pictures of a run and their list: what is missing or not the listed picture is made, what is
there is listed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from asyndm.protocols import Pipeline
from evaluation.messages import count_things
from evaluation.runs.files import hash_file
from evaluation.runs.folder import IMAGES_FILE
from evaluation.runs.rows import ImageKey, ImageRow
from experiments.engine.folder import PlannedFolder
from experiments.engine.heartbeat import Heartbeat
from experiments.engine.plan import Item
from experiments.engine.record import add_to_record, begin_record, use_threads_as_begun
from experiments.engine.sampling import load_model, sample_missing
from experiments.engine.scores import Scorer


class Listing:
    """A run's ``images.csv`` as it was found and as its pictures are now."""

    def __init__(self, folder: PlannedFolder) -> None:
        self.folder, self.table = folder, folder.images
        self.table.refresh()  # others may have made the run since this process looked for it
        self.changed = set[ImageKey]()
        self._before = dict(self.table.rows)

    def is_swapped(self, item: Item) -> bool:
        """Whether the picture, which is there, is another one than was listed."""
        row = self._before.get(item.key)
        return row is not None and not self.folder.stamps.is_listed(replace(row, file=item.file))

    def was_listed(self, item: Item) -> bool:
        """Whether there was a row of it, whatever became of the picture."""
        return item.key in self._before

    def is_unlisted(self, item: Item) -> bool:
        """Whether the picture, which is there, has no row: it was made by a process that was killed
        before it listed it, or the row was lost."""
        return item.key not in self.table.rows

    def put(self, item: Item) -> None:
        """Lists a picture. If it is another one than before its scores go first, so that an
        interruption leaves no score of another picture."""
        row, before = self._row(item), self._before.get(item.key)
        if before and before.sha256 != row.sha256 and item.key not in self.changed:
            self.changed.add(item.key)
            self.folder.drop_scores({item.key})
        if self.table.rows.get(item.key) != row:
            self.table.put([row])

    def save(self) -> None:
        """Writes what was put."""
        self.table.save()
        self.folder.stamps.save()

    def _row(self, item: Item) -> ImageRow:
        prompt = item.prompt
        return ImageRow(
            self.folder.plan.run_id,
            prompt.prompt_id,
            prompt.text,
            tuple(subject.text for subject in prompt.subjects),
            prompt.kind,
            item.image_index,
            item.seed,
            item.file,
            self.folder.stamps.sha256(item.file) or hash_file(self.folder.path / item.file),
        )


def make_images(
    folder: PlannedFolder, heartbeat: Heartbeat, report: Callable[[int], None], scorer: Scorer
) -> None:
    """Samples the missing images of this part and brings ``images.csv`` up to date.

    Args:
        folder: of the run.
        heartbeat: told how far it is.
        report: called with the number of images listed, after each that is made.
        scorer: scores them beside the sampling, where that pays.
    """
    listing, own = Listing(folder), folder.own_items
    try:
        missing = settle_pictures(listing, own, heartbeat.is_owner)
        heartbeat.tell(part=len(own), there=len(own) - len(missing))
        draws_strip = folder.wants_strip and own[:1] == list(folder.plan.items[:1])
        if missing or draws_strip or not folder.has_record:
            _sample(listing, heartbeat, report, scorer, missing)
    finally:
        listing.save()
    if listing.changed:
        changed = count_things(len(listing.changed), "image")
        _warn(folder, f"{changed} came back different (machine, libraries?)")


def _sample(
    listing: Listing,
    heartbeat: Heartbeat,
    report: Callable[[int], None],
    scorer: Scorer,
    missing: Collection[Item],
) -> None:
    folder, made = listing.folder, 0
    heartbeat.tell(phase="loading")
    pipe = load_model(folder.plan)
    begin_record(folder, pipe, samples=bool(missing))
    own = folder.own_items  # of the batches that the run was begun with
    there = len(own) - len(folder.missing(own))
    heartbeat.tell(phase="sampling", part=len(own), there=there, loaded=heartbeat.seconds)

    def keep(item: Item) -> None:
        nonlocal made
        made += 1
        listing.put(item)
        heartbeat.tell(made=made, there=there + made)
        report(len(listing.table.rows))

    rows = Counter[str]()
    beside = _scores_beside(listing, pipe, missing)
    started = time.perf_counter()
    try:
        with use_threads_as_begun(folder), scorer.score_beside(beside) as score_batch:
            sample_missing(folder, pipe, keep, rows.update, score_batch, scorer.give_way)
    finally:
        seconds = time.perf_counter() - started
        add_to_record(folder, pipe, rows, sampling_seconds=seconds, images_sampled=made)
    listing.table.refresh()
    for item in own:
        if item.key not in listing.table.rows:
            listing.put(item)


def _scores_beside(listing: Listing, pipe: Pipeline, missing: Collection[Item]) -> bool:
    """Whether pictures are scored while others are sampled. Not where one may take the place of
    another picture, whose scores would have to go meanwhile."""
    wanted: bool | None = listing.folder.plan.config["concurrent_scoring"]
    if wanted is None:
        wanted = pipe._execution_device.type == "cuda"
    return wanted and not any(listing.was_listed(item) for item in missing)


def settle_pictures(listing: Listing, own: Sequence[Item], may_remove: bool) -> set[Item]:
    """Lists what is there, and takes away what is to be made anew.

    Args:
        listing: of the run's pictures.
        own: those that this process makes.
        may_remove: whether it decides what becomes of pictures that are not the listed ones.

    Returns:
        the missing ones.
    """
    folder = listing.folder
    missing = folder.missing(own)
    if may_remove:
        listing.table.refresh()
    there = [item for item in own if item not in missing]
    unlisted = [item for item in there if listing.is_unlisted(item)]
    swapped = [item for item in there if listing.is_swapped(item)]
    swapped += [item for item in unlisted if folder.stamps.is_another(item.file)]
    others = missing.union(swapped)
    if may_remove and (
        lost := folder.drop_scores({item.key for item in unlisted if item not in others})
    ):
        scored = count_things(len(lost), "scored picture")
        _warn(folder, f"{scored} not in {IMAGES_FILE}; listed and scored anew")
    for item in own:
        if item not in others:
            listing.put(item)
    if swapped and may_remove:
        _warn(
            folder,
            f"{count_things(len(swapped), 'picture')} other than {IMAGES_FILE} lists, the first "
            f"{swapped[0].name}; made anew, with their scores",
        )
        folder.drop_scores({item.key for item in swapped})
        for item in swapped:
            folder.remove_picture(item.file)
        missing = others
    folder.drop_scores({item.key for item in missing}, without_value=True)
    return missing


def _warn(folder: PlannedFolder, text: str) -> None:
    print(f"warning: {folder.path.name}: {text}", file=sys.stderr)
