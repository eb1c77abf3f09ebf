"""How far a set of pictures is from a reference set: FID (arXiv 1706.08500) and KID (arXiv
1801.01401), by torchmetrics.

    python -m evaluation.quality runs/NAME --reference shapes  # renders of its own prompts
    python -m evaluation.quality runs --reference PHOTOS --features inception  # all runs below
    python -m evaluation.quality PICTURES --reference runs/OTHER --features ViT-B-32:openai

With features of mean μ and covariance S, the reference's μᵣ and Sᵣ, and k(x, y) = (x·y / d + 1)³ in
d dimensions,

    FID = |μ - μᵣ|² + Tr(S + Sᵣ - 2 (S Sᵣ)^½)
    KID = mean of k(x, x') + mean of k(r, r') - 2 mean of k(x, r)   over x ≠ x' and r ≠ r'

where KID is the mean over 100 subsets drawn by the seed, and its deviation theirs. Smaller is
better; KID of good pictures scatters about 0, and below it where the reference shows the very same
prompts, as true renders do. Values by other features, and FIDs of sets of other sizes, are not
comparable. A folder without runs stands for all pictures below it. Rows are added to
``quality.csv`` in the folder; what is there is skipped, and none is changed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from asyndm.errors import UserError
from asyndm.shapes.world import index_specs
from asyndm.terminal import printable
from evaluation.commands import Parser, command_line, tell_error
from evaluation.metrics import Score
from evaluation.pictures import open_or_explain, read_run_pictures
from evaluation.quality.features import Features, fid, kid
from evaluation.runs.files import hash_file
from evaluation.runs.folder import QUALITY_FILE, RunFolder, find_runs_below
from evaluation.runs.records import RUN_FILE
from evaluation.runs.rows import QualityRow
from evaluation.runs.shared_rows import SharedRows
from evaluation.runs.stamps import CHANGED

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = "shapes"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST = 1000
"""Largest subset of KID where its size is not given."""


@command_line(errors=(Exception,), resumes=True)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("evaluation.quality", __doc__)
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a run, a folder of runs, or one of pictures",
    )
    parser.add_argument(
        "--reference", required=True, help="shapes, or a folder of pictures or runs"
    )
    parser.add_argument(
        "--features", default=SHAPES, help="shapes, inception, or a CLIP of open_clip"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="pictures whose features are computed at once",
    )
    parser.add_argument(
        "--subset-size", type=int, metavar="N", help="of KID; default: half the set"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of KID's subsets and true renders"
    )
    chosen = parser.read(arguments)
    if chosen.batch_size < 1:
        raise UserError(f"--batch-size {chosen.batch_size}: must be at least 1")
    if chosen.subset_size is not None and chosen.subset_size < 2:
        raise UserError(f"--subset-size {chosen.subset_size}: must be at least 2")
    if not 0 <= chosen.seed < 2**63:
        raise UserError(f"--seed {chosen.seed}: must be at least 0 and below 2**63")
    reference = None if chosen.reference == SHAPES else PictureSet.below(Path(chosen.reference))
    folders = [folder for root in chosen.folders for folder in _find_folders(root)]
    features = Features(chosen.features)
    comparison = Comparison(features, reference, chosen.batch_size, chosen.subset_size, chosen.seed)
    return max([_compare_folder(comparison, folder) for folder in folders])


def _find_folders(root: Path) -> list[Path]:
    """The runs below, or the folder itself where there are none.

    Raises:
        UserError: no such folder.
    """
    return find_runs_below(root) or [root]


@dataclass(frozen=True)
class PictureSet:
    """Pictures that are compared as a whole; `texts` are their prompts, for those of a run."""

    folder: Path
    files: list[Path]
    texts: list[str] | None = None

    @classmethod
    def of(cls, folder: Path) -> PictureSet:
        """The pictures of a run, or all below a folder that is none.

        Raises:
            UserError: there are none.
        """
        if (folder / RUN_FILE).exists():
            pictures, changed = read_run_pictures(folder)
            for path in changed:
                _warn(f"{path}: {CHANGED}")
            found = cls(folder, [p.path for p in pictures], [p.prompt.text for p in pictures])
        else:
            found = cls(
                folder, sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
            )
        if not found.files:
            raise UserError(f"{folder}: no pictures there")
        return found

    @classmethod
    def below(cls, root: Path) -> PictureSet:
        """All pictures of a folder, or of the runs in it.

        Raises:
            UserError: no such folder, or none there.
        """
        try:
            return cls(
                root, [file for folder in _find_folders(root) for file in cls.of(folder).files]
            )
        except UserError as error:
            raise UserError(f"--reference {error}") from error

    @cached_property
    def digest(self) -> str:
        """A hash of the pictures, whatever they are called."""
        hashes = sorted(hash_file(file) for file in self.files if file.is_file())
        return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


@dataclass
class Comparison:
    """What sets are compared with, and how.

    Attributes:
        reference: None for true renders of each run's own prompts.
        subset_size: of KID; None: half of the smaller set, but no more than `MOST`.
    """

    features: Features
    reference: PictureSet | None
    batch_size: int = 32
    subset_size: int | None = None
    seed: int = 0

    def rows(self, pictures: PictureSet, done: Sequence[QualityRow]) -> Iterator[QualityRow]:
        """FID and KID of a set; those of `done` as they are, the others computed.

        Raises:
            UserError: fewer than two readable pictures, a subset that is larger than a set, or a
                prompt that the shapes world does not know.
        """
        theirs = len(pictures.files if self.reference is None else self.reference.files)
        subset = self.subset_size or max(2, min(MOST, len(pictures.files) // 2, theirs // 2))
        name = (
            SHAPES if self.reference is None else f"{_name(self.reference)}@{self.reference.digest}"
        )
        named = (self.features.name, name, pictures.digest)
        drawn = {
            "fid": (None, self.seed if self.reference is None else None),
            "kid": (subset, self.seed),
        }
        there = {row.place: row for row in done}
        compared: tuple[Tensor, Tensor] | None = None
        for metric, settings in drawn.items():
            if (row := there.get((metric, *named, *settings))) is None:
                compared = compared or self._pair(pictures, subset)
                known, seen = compared
                value, deviation = (
                    (fid(known, seen), None)
                    if metric == "fid"
                    else kid(known, seen, subset, self.seed)
                )
                row = QualityRow(
                    RunFolder(pictures.folder).run_id,
                    metric,
                    *named,
                    len(seen),
                    len(known),
                    value,
                    deviation,
                    *settings,
                )
            yield row

    def _pair(self, pictures: PictureSet, subset: int) -> tuple[Tensor, Tensor]:
        """The features of the reference and of the pictures."""
        if self.reference is None:
            _check_drawable(pictures)
        kept, seen = self._features(pictures)
        known = self._of_reference if self.reference else self._of_renders(pictures, kept)
        smaller, wide = min(len(seen), len(known)), seen.shape[1]
        if subset > smaller:
            raise UserError(
                f"{pictures.folder}: --subset-size {subset}: larger than the smaller set "
                f"({len(seen)} pictures, {len(known)} of the reference); give a smaller one"
            )
        if smaller < wide:
            _warn(
                f"{pictures.folder}: fid of {len(seen)} pictures against {len(known)} in {wide} "
                "dimensions is ill-conditioned: "
                "compare with sets of the same size only, or use kid"
            )
        return known, seen

    def _features(self, pictures: PictureSet) -> tuple[list[int], Tensor]:
        """Which pictures can be read, and their features."""
        import torch

        kept: list[int] = []
        found = []
        for start in range(0, len(pictures.files), self.batch_size):
            images = []
            for i, file in enumerate(pictures.files[start : start + self.batch_size], start):
                if isinstance(picture := open_or_explain(file), Score):
                    _warn(f"{file}: {picture.reason}; not counted")
                else:
                    images.append(picture)
                    kept.append(i)
            if images:
                found.append(self.features.of(images))
        if len(kept) < 2:
            raise UserError(
                f"{pictures.folder}: {len(kept)} readable pictures; at least 2 are needed"
            )
        return kept, torch.cat(found)

    @cached_property
    def _of_reference(self) -> Tensor:
        """The features of the reference set, once for all sets."""
        assert self.reference is not None
        return self._features(self.reference)[1]

    def _of_renders(self, pictures: PictureSet, kept: Sequence[int]) -> Tensor:
        """The features of true renders, one for each picture that could be read."""
        import torch

        assert pictures.texts is not None
        images, size = draw_renders([pictures.texts[i] for i in kept], self.seed), self.batch_size
        return torch.cat(
            [self.features.of(images[i : i + size]) for i in range(0, len(images), size)]
        )


def draw_renders(texts: Sequence[str], seed: int) -> list[Image.Image]:
    """A true picture of each prompt of the shapes world, in 8 bits as pictures of runs are."""
    import torch

    from asyndm.shapes.render import render

    generator = torch.Generator().manual_seed(seed)
    drawn = (render([index_specs()[text]], generator).images[0] for text in texts)
    pixels = [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in drawn]
    return [Image.fromarray(array) for array in pixels]


def _compare_folder(comparison: Comparison, folder: Path) -> int:
    """One set; what is wrong with it is told, and the next one is compared all the same."""
    try:
        pictures, table = PictureSet.of(folder), SharedRows(folder / QUALITY_FILE, QualityRow, list)
        rows = list(comparison.rows(pictures, list(table.rows.values())))
        if new := [row for row in rows if row.place not in table.rows]:
            table.put(new)
            table.save()
    except UserError as error:
        tell_error(error)
        return 1
    by, by_kid = rows
    said = (
        f"{folder}  fid {by.value:.4f}  kid {by_kid.value:.6f} ± {by_kid.deviation or 0:.6f}  "
        f"{by.images} pictures against {by.reference_images} of {by.reference} by {by.features}, "
        f"{len(new)} new"
    )
    print(printable(said), flush=True)
    return 0


def _check_drawable(pictures: PictureSet) -> None:
    """Refuses pictures without prompts, and prompts the shapes world cannot draw."""
    if pictures.texts is None:
        raise UserError(f"{pictures.folder}: --reference shapes needs a run, with its prompts")
    if strange := next((text for text in pictures.texts if text not in index_specs()), None):
        raise UserError(
            f"{pictures.folder}: --reference shapes: {strange!r} is not a prompt of the shapes "
            "world; give --reference FOLDER"
        )


def _name(pictures: PictureSet) -> str:
    return pictures.folder.resolve().name


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)
