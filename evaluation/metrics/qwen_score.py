"""QwenScore: the rating from 0 to 9 that a vision-language model gives to a picture for its prompt,
in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from evaluation.metrics import Score
from evaluation.metrics.vision_language import GAP, VisionLanguage, VisionLanguageMetric
from evaluation.runs.prompts import Prompt

DIGIT = r"(?<![\w.,/+-])([0-9])(?!\w|[.,-]\d|\s*+(?:/|out of\b)\s*+(?!9\b))"
"""One that is no part of a longer number, of a decimal, of a range, or of a rating on another scale
(8/10)."""
RATINGS = (
    re.compile(rf"\W*{DIGIT}(?:\s*(?:/|out of)\s*9)?\W*"),
    re.compile(
        rf".*\b(?:rating|score)(?:\s+(?:is|of|would be))?\W*{DIGIT}(?:\s*(?:/|out of)\s*9)?\W*",
        re.I | re.S,
    ),
    re.compile(rf".*{DIGIT}\s*(?:/|out of)\s*9\W*", re.S),
)
"""Answers that are a rating: the digit alone, after the word at the end of the answer, or with its
scale at the end."""


@dataclass(eq=False)
class QwenScore(VisionLanguageMetric[VisionLanguage]):
    """The rating that the answer is or ends with; another answer has no value, and is told as it
    is.

    `reason` is the answer. It is decoded greedily.

    Attributes:
        instruction: {} stands for the prompt.
        max_new_tokens: after which the answer is cut.

    Raises:
        UserError: an instruction without {}, answers of no tokens, unknown dtype.
    """

    instruction: str = (
        'How well does this image match the description "{}"? '
        "Rate it with an integer from 0 (not at all) to 9 (perfectly). "
        "Answer with the integer only."
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
        return [Score.of(math.nan) if answer is None else read_rating(answer) for answer in answers]

    def load(self) -> VisionLanguage:
        """Network and processor."""
        return self.load_model()


def read_rating(answer: str) -> Score:
    """The rating in an answer, or that there is none."""
    for form in RATINGS:
        if found := form.fullmatch(answer.strip()):
            return Score(float(found[1]), answer)
    return Score(None, f"no rating from 0 to 9: {answer!r}")
