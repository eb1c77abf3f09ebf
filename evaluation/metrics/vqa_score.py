"""VQAScore (arXiv 2404.01291): how likely a vision-language model answers that the picture shows
the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from asyndm.errors import UserError
from evaluation.metrics import Score
from evaluation.metrics.vision_language import GAP, VisionLanguage, VisionLanguageMetric
from evaluation.runs.prompts import Prompt


@dataclass(eq=False)
class VQAScore(VisionLanguageMetric[VisionLanguage]):
    """P(answer | picture, question): the share of the answer's first token among all tokens that
    could come next.

    Scores of different models or questions are never comparable.

    Attributes:
        question: {} stands for the prompt; the default is the original wording.
        answer: a word of which the first token counts.

    Raises:
        UserError: a question without {}, an empty answer, unknown dtype.
    """

    question: str = 'Does this figure show "{}"? Please answer yes or no.'
    answer: str = "Yes"
    name = "vqa_score"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_question("question")
        if not self.answer.strip():
            raise UserError("metric vqa_score: answer: must be a word, such as Yes")

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        questions = [self.question.replace(GAP, prompt.text) for prompt in prompts]
        likely = self.loaded.next_token(images, questions)
        return [
            Score.of(value) for value in likely[:, self.loaded.first_token(self.answer)].tolist()
        ]

    def load(self) -> VisionLanguage:
        """Network and processor."""
        return self.load_model()
