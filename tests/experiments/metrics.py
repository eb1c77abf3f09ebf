"""A metric that any picture has a value of."""

import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL.Image import Image

from evaluation.metrics import Metric, Score
from evaluation.runs.prompts import Prompt


class Brightness(Metric):
    """The mean pixel, 0 to 1; a prompt without kind cannot be scored."""

    name = "brightness"

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        pairs = zip(images, prompts, strict=True)
        return [
            Score(float(np.asarray(i).mean() / 255)) if p.kind else Score(None, "no kind")
            for i, p in pairs
        ]


class Counting(Brightness):
    """The same, with two things too many in each picture."""

    counts_things = True

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        found = super().score(images, prompts)
        return [score if score.value is None else Score(score.value, "", 2, 0) for score in found]


class Slow(Brightness):
    """The same, at leisure: there is time to interrupt it."""

    pause: ClassVar[float] = 0.1

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        time.sleep(self.pause)
        return super().score(images, prompts)
