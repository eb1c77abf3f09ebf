"""Pictures and prompts to rows of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from asyndm.errors import UserError
from evaluation.memory import Room
from evaluation.metrics import Score
from evaluation.pictures import Picture
from evaluation.runs.folder import RunFolder
from evaluation.runs.prompts import Prompt
from evaluation.scoring import add_missing, score
from tests.evaluation.metrics.pictures import draw_noise
from tests.experiments.metrics import Brightness


class Hungry(Brightness):
    """Has memory for three pictures at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Score]:
        self.batches.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().score(images, prompts)

    most = 3


def test_batches_shrink_to_the_memory_and_scores_are_the_same(tmp_path: Path) -> None:
    pictures = []
    for i, image in enumerate(draw_noise(*[(8, 8)] * 11)):
        image.save(tmp_path / f"{i}.png")
        pictures.append(Picture(tmp_path / f"{i}.png", Prompt(str(i), "x")))
    hungry = Hungry()
    room = Room(10)
    found = [
        row for batch in (pictures[:10], pictures[10:]) for row in score(hungry, batch, "r", room)
    ]
    assert found == score(Brightness(), pictures, "r", Room(11))
    assert hungry.batches == [10, 5, 3, 3, 3, 1, 1]
    hungry.most = 0
    with pytest.raises(
        UserError, match="metric brightness: out of memory with one picture; choose dtype"
    ):
        score(hungry, pictures, "r", room)


class Asked(dict[Any, Any]):
    """Counts how often it is asked for a key, and is never gone through."""

    times = 0

    def __contains__(self, key: object) -> bool:
        self.times += 1
        return super().__contains__(key)

    def values(self) -> Any:
        raise AssertionError("all rows are gone through")


@pytest.mark.fault(
    what="a folder of 100,000 pictures, all of which are scored",
    kind="costs that grow too fast",
    now="each is looked up once, in constant time",
)
def test_finding_nothing_to_do_looks_at_each_picture_once(tmp_path: Path) -> None:
    pictures = [Picture(tmp_path / f"{i}.png", Prompt(str(i), "x")) for i in range(100)]
    table = RunFolder(tmp_path, [picture.key for picture in pictures]).scores
    rows = Asked({(Brightness.name, *picture.key): None for picture in pictures})
    table.rows = rows
    assert add_missing(table, Brightness(), pictures, "r", 4) == 0 and rows.times == len(pictures)
