"""The page's pictures and traces: small copies named by their content, so that another writing adds
only what is new."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image
from tqdm import tqdm

from asyndm.errors import UserError, read_first_line
from asyndm.terminal import printable
from evaluation.messages import is_quiet
from evaluation.runs.files import hash_file, require_file, write_bytes
from evaluation.runs.images import DRAWINGS
from evaluation.runs.stamps import Stamps
from evaluation.runs.traces import UNREADABLE, read_head
from experiments.report.gallery import Numbered, Source

SIDE = 256
"""The longest side of a picture of the gallery, in pixels."""
THREADS, BATCH = 8, 64
"""Pictures are made small in so many threads at most, so many pictures at a time."""
Ways = tuple[tuple[int, ...], tuple[str, ...]]
"""The steps of a trace and the timesteps at each, as text."""
HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Copy:
    """What the page shows of a picture.

    Attributes:
        picture: [file, width, height], or nothing where it cannot be read.
        trace: [file, width, height], or nothing where there is none.
        way: the labels of the trace.
        previews: [file, width, height], or nothing where there are none.
        missing: what could not be read, and why.
    """

    picture: list[Any] = field(default_factory=list)
    trace: list[Any] = field(default_factory=list)
    way: Ways = ((), ())
    previews: list[Any] = field(default_factory=list)
    missing: tuple[str, ...] = ()


class Assets:
    """Copies pictures and traces into the page's folder, each content once.

    Args:
        folder: the page's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        """What could not be read."""
        self._stamps: dict[Path, Stamps] = {}
        self._written = {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*")}
        self._lock = Lock()

    def copy(self, sources: Sequence[Source]) -> tuple[list[list[Any] | str], list[Ways]]:
        """All of them, side by side.

        Returns:
            For each [file, width, height, trace, previews], shorter where there is no trace, or its
            name where it cannot be read; a trace is [file, width, height, number of its labels].
            And the labels.
        """
        self._stamps = {folder: Stamps(folder) for folder in {source.folder for source in sources}}
        batches = [sources[start : start + BATCH] for start in range(0, len(sources), BATCH)]
        bar = tqdm(total=len(sources), unit="img", desc="page", delay=5, disable=is_quiet())
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool, bar:

            def copy_batch(batch: Sequence[Source]) -> list[Copy]:
                found = [self._copy_source(source) for source in batch]
                bar.update(len(found))
                return found

            parts = list(chain.from_iterable(pool.map(copy_batch, batches)))
        for stamps in self._stamps.values():
            stamps.save()
        ways: Numbered[Ways] = Numbered()
        entries: list[list[Any] | str] = []
        for source, part in zip(sources, parts, strict=True):
            self.missing += part.missing
            trace = [[*part.trace, ways.of(part.way)]] if part.trace else []
            previews = [part.previews] if part.previews else []
            entries.append(
                [*part.picture, *trace, *previews] if part.picture else printable(source.file)
            )
        return entries, list(ways)

    def _copy_source(self, source: Source) -> Copy:
        try:
            entry = self._shrink(source.path, f"pictures/{self._find_digest(source)[:16]}", SIDE)
        except UserError as error:
            return Copy(missing=(str(error),))
        except UNREADABLE as error:
            why = (
                error.strerror if isinstance(error, OSError) and error.strerror else "not a picture"
            )
            return Copy(missing=(f"{source.path} ({why})",))
        try:
            return Copy(entry, *self._copy_trace(source))
        except (*UNREADABLE, UserError) as error:
            return Copy(entry, missing=(read_first_line(error),))

    def _find_digest(self, source: Source) -> str:
        """The picture's hash.

        Raises:
            OSError: it is not there.
            UserError: it is no file of its run, or not the picture that the run lists.
        """
        if source.file.startswith("/") or ".." in source.file.split("/"):
            raise UserError(f"{source.path}: lies outside of its run; left out")
        require_file(source.path)
        digest = self._stamps[source.folder].sha256(source.file)
        if not digest:
            raise UserError(f"{source.path}: cannot be read")
        if HASH.fullmatch(source.sha256) and digest != source.sha256:
            raise UserError(
                f"{source.path}: not the picture that images.csv lists; ask for the run again"
            )
        return digest

    def _copy_trace(self, source: Source) -> tuple[list[Any], Ways, list[Any]]:
        """The trace, its labels, and the predicted pictures."""
        path = source.trace
        if not path.exists():
            return [], ((), ()), []
        head = read_head(path)
        trace = [self._copy_whole(path), *head.size]
        previews = source.previews
        shrunk = (
            self._shrink(
                previews, f"traces/{hash_file(previews)[:16]}", SIDE * len(head.steps) // 2
            )
            if previews.exists()
            else []
        )
        return trace, (head.steps, tuple(head.labels)), shrunk

    def _copy_whole(self, path: Path) -> str:
        content = require_file(path).read_bytes()
        name = f"traces/{hashlib.sha256(content).hexdigest()[:16]}.png"
        if self._is_new(name):
            write_bytes(self.folder / name, content, durable=False)
        return name

    def _shrink(self, path: Path, stem: str, side: int) -> list[Any]:
        """A PNG with sides up to `side` as it is, anything else as WebP of at most that size:
        [file, width, height]."""
        with Image.open(require_file(path)) as image:
            if image.format in DRAWINGS:
                raise ValueError(f"{image.format}, a drawing")
            if image.format == "PNG" and max(image.size) <= side:
                name = f"{stem}.png"
                if self._is_new(name):
                    write_bytes(self.folder / name, path.read_bytes(), durable=False)
                return [name, *image.size]
            name = f"{stem}.webp"
            scale = min(1, side / max(image.size))
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            if not self._is_there(name):
                small, buffer = (
                    image.convert("RGB").resize(size, Image.Resampling.LANCZOS),
                    io.BytesIO(),
                )
                small.save(buffer, "WEBP", quality=88)
                if self._is_new(name):
                    write_bytes(self.folder / name, buffer.getvalue(), durable=False)
            return [name, *size]

    def _is_there(self, name: str) -> bool:
        return name in self._written

    def _is_new(self, name: str) -> bool:
        """Whether nobody has written the file; if so, it is the asking thread's to write."""
        with self._lock:
            new = not self._is_there(name)
            self._written.add(name)
        return new
