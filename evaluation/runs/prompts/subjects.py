"""Which words of a prompt are its subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from asyndm.errors import UserError
from asyndm.subjects import find_subject
from evaluation.runs.prompts.plurals import find_mentions, list_forms
from evaluation.runs.prompts.sets import Prompt
from evaluation.runs.text_files import find_file, read_text


class SubjectChoice:
    """The subjects as the prompt set gives them: by hand, or by the grammar it was made with."""

    def choose(self, prompt: Prompt) -> Prompt:
        """The prompt with its subjects."""
        return prompt


@dataclass(frozen=True)
class WordList(SubjectChoice):
    """The subjects are the words of a list, wherever a prompt says them, in the singular or a
    plural; of words that overlap the longest. Their concavity is the curve's.

    Attributes:
        words: words or phrases.
        path: a text file of more, one a line.
    """

    words: Sequence[str] = ()
    path: str | None = None

    def choose(self, prompt: Prompt) -> Prompt:
        """The prompt with these subjects.

        Raises:
            UserError: no words at all, or a file that is not there.
        """
        found = (
            find_subject(prompt.text, *name)
            for _, name in find_mentions(prompt.text, self._spellings)
        )
        return replace(prompt, subjects=tuple(filter(None, found)))

    @cached_property
    def _spellings(self) -> set[str]:
        lines = read_text(find_file(self.path, "word list")).splitlines() if self.path else []
        names = [word.strip() for word in (*self.words, *lines) if word.strip()]
        if not names:
            where = f"{self.path}: " if self.path else ""
            raise UserError(
                f"{where}the word list is empty: give subjects.words=[...] or subjects.path=FILE"
            )
        return set().union(*map(list_forms, names))
