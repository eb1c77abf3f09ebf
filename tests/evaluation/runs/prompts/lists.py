"""Lists as people have them, for several tests."""

from __future__ import annotations

from pathlib import Path

from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.sets import Prompt, make_text_id

CAT = Prompt(make_text_id("a cat"), "a cat", kind="pet")


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def load(folder: Path, name: str, content: str | bytes, **columns: str) -> list[Prompt]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FilePrompts(str(path), columns=columns).load()
