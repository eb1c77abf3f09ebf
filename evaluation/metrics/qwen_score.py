"""QwenScore: the rating from 0 to 9 that a vision-language model gives to a picture for its prompt, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from asyndm.prompts import Prompt
from evaluation.metrics import Score
from evaluation.vision_language import GAP, VisionLanguage, VisionLanguageMetric

SCALE = re.compile(r"\b0\s*(?:to|-|\N{EN DASH})\s*9\b")
"""The scale itself, which some answers repeat before they rate."""
ALONE = re.compile(r"(?<![\w.,/+-])[0-9](?!\w|[.,-]\d|\s*+(?:/|out of\b)\s*+(?!9\b))")
"""A digit that is no part of a longer number, of a decimal, of a range, or of a rating on another scale (8/10)."""


@dataclass(eq=False)
class QwenScore(VisionLanguageMetric[VisionLanguage]):
    """The first digit that stands alone in the answer; an answer without one has no value, and is told as it is.

    `reason` is the answer. It is decoded greedily.

    Attributes:
        instruction: {} stands for the prompt.
        max_new_tokens: after which the answer is cut.

    Raises:
        UserError: an instruction without {}, answers of no tokens, unknown dtype.
    """

    instruction: str = (
        'How well does this image match the description "{}"? '
        "Rate it with an integer from 0 (not at all) to 9 (perfectly). Answer with the integer only."
    )
    max_new_tokens: int = 8
    name = "qwen_score"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_question("instruction")
        self.check_length(self.max_new_tokens)

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        asked = [self.instruction.replace(GAP, prompt.text) for prompt in prompts]
        answers = self.loaded.answers(images, asked, self.max_new_tokens)
        return [Score.of(math.nan) if answer is None else rating(answer) for answer in answers]

    def load(self) -> VisionLanguage:
        """Network and processor."""
        return self.load_model()


def rating(answer: str) -> Score:
    """The rating in an answer, or that there is none."""
    found = ALONE.search(SCALE.sub(" ", answer))
    if found is None:
        return Score(None, f"no rating from 0 to 9: {answer!r}")
    return Score(float(found[0]), answer)
