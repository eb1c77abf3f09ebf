"""Prompt sets: the prompts of a run with what is said of each. One class a set, all of them to be
had from here."""

from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.geneval import GenEvalPrompts
from evaluation.runs.prompts.sets import (
    AnimalActivity,
    Prompt,
    PromptSet,
    ReferencePrompts,
    ShapesPrompts,
    make_text_id,
)
from evaluation.runs.prompts.subjects import SubjectChoice, WordList

__all__ = [
    "AnimalActivity",
    "FilePrompts",
    "GenEvalPrompts",
    "Prompt",
    "PromptSet",
    "ReferencePrompts",
    "ShapesPrompts",
    "SubjectChoice",
    "WordList",
    "make_text_id",
]
