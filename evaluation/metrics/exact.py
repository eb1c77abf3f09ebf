"""The exact checker of the shapes world as a metric: 1 where the picture shows its prompt, else
0."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from asyndm.errors import UserError
from asyndm.shapes.world import index_specs
from evaluation.metrics import Metric, Score
from evaluation.runs.prompts import Prompt

SIZE = (64, 64)


class Exact(Metric):
    """Right (1) or wrong (0), with the reason: which object is missing, miscoloured, miscounted or
    misplaced.

    The meaning is found by the prompt's text, so prompts of one's own are checked as well, as long
    as the world of shapes can say them; others get no value. Things are counted whatever they are:
    one of a wrong colour is neither surplus nor missing (`asyndm.shapes.checker.Verdict`).
    """

    name = "exact"
    counts_things = True

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        if not any(prompt.text in index_specs() for prompt in prompts):
            raise UserError(
                "metric=exact: none of the prompts is one of the shapes world; choose metric=none"
            )
        if size != SIZE:
            raise UserError(
                f"metric=exact: knows pictures of {SIZE[0]}x{SIZE[1]} only, these will be "
                f"{size[0]}x{size[1]}; choose metric=none"
            )

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        scores = [
            Score(None, _find_obstacle(image, prompt))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        known = [i for i, score in enumerate(scores) if not score.reason]
        if known:
            import numpy as np
            import torch

            from asyndm.shapes.checker import check

            pixels = np.stack(
                [np.asarray(images[i].convert("RGB"), dtype=np.float32) / 255 for i in known]
            )
            verdicts = check(
                torch.from_numpy(pixels).permute(0, 3, 1, 2),
                [index_specs()[prompts[i].text] for i in known],
            )
            for i, verdict in zip(known, verdicts, strict=True):
                scores[i] = Score(
                    float(verdict.correct), verdict.reason, verdict.surplus, verdict.missing
                )
        return scores


def _find_obstacle(image: Image, prompt: Prompt) -> str:
    """Why the checker has nothing to say, or nothing."""
    if prompt.text not in index_specs():
        return "not a prompt of the shapes world"
    return "" if image.size == SIZE else f"the checker knows pictures of {SIZE[0]}x{SIZE[1]} only"
