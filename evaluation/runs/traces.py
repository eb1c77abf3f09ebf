"""What a method did to a picture on its way, kept beside it as small PNGs: how noisy each place
was, and whose it was.

``traces/ID.png`` has a column for each of some steps; above, the timestep map (violet is clean,
yellow noise), below it the masks, a colour for each subject, black where there is none and grey
where one is the whole picture, both a pixel for a pixel of the latents. ``previews/ID.png`` has the
predicted clean picture of the same steps, for a run's first pictures. Steps and ranges are in the
PNG's text.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from asyndm.errors import UserError, read_first_line
from evaluation.runs.colours import GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW, to_rgb
from evaluation.runs.files import require_file

Array = npt.NDArray[np.float64]

COLUMNS = 8
UNREADABLE = (
    OSError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    Image.DecompressionBombError,
)
"""What Pillow and JSON raise of broken and hostile files."""
TRACES, PREVIEWS = "traces", "previews"
KEY = "asyndm"
VIRIDIS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float
)
SUBJECTS = np.array(
    [to_rgb(colour) for colour in (ORANGE, SKY, GREEN, PURPLE, YELLOW)], dtype=float
)
WHOLE = np.array(to_rgb(GREY), dtype=float)
"""Of a mask that is the whole picture: under DM_concave always, under AsynDM before the first
attention is seen."""


def choose_steps(num_inference_steps: int) -> list[int]:
    """The steps a trace shows, counted from 1: evenly spaced, the first and the last among them."""
    places = np.linspace(1, num_inference_steps, min(COLUMNS, num_inference_steps))
    return [int(step) for step in np.unique(places.round())]


@dataclass(frozen=True)
class Trace:
    """One picture's way: for each step shown, its number, the lowest and highest timestep, and two
    small pictures. The timesteps of a flow are 1000 σ, and told as σ."""

    steps: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    maps: tuple[Image.Image, ...]
    masks: tuple[Image.Image, ...]
    flow: bool = False

    @property
    def labels(self) -> list[str]:
        """The timesteps of each step: "t 561-701", or "t 561" where all places have the same; "σ
        0.56-0.70"."""
        return _label_ranges(self.ranges, self.flow)


@dataclass(frozen=True)
class Head:
    """A trace without its small pictures; `size` is the width and height of all of them
    together."""

    steps: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    size: tuple[int, int]
    flow: bool

    @property
    def labels(self) -> list[str]:
        """As of a `Trace`."""
        return _label_ranges(self.ranges, self.flow)


def _label_ranges(ranges: Sequence[tuple[float, float]], flow: bool) -> list[str]:
    sign = "σ" if flow else "t"
    spans = [[f"{t / 1000:.2f}" if flow else str(round(t)) for t in span] for span in ranges]
    return [f"{sign} {high}" if low == high else f"{sign} {low}-{high}" for low, high in spans]


def make_trace(steps: Sequence[int], timesteps: Array, weights: Array, flow: bool = False) -> Trace:
    """The way of one picture.

    Args:
        steps: C of them.
        timesteps: (C, H, W), 0 (clean) to 1000 (noise).
        weights: (C, S, H, W) in [0, 1], the mask of each subject.
        flow: whether the model is one of flow matching.
    """
    return Trace(
        tuple(steps),
        tuple((float(t.min()), float(t.max())) for t in timesteps),
        tuple(draw_levels(t) for t in timesteps),
        tuple(_draw_regions(w) for w in weights),
        flow,
    )


def encode_trace(way: Trace) -> bytes:
    """The trace as a PNG."""
    text = PngInfo()
    text.add_text(
        KEY,
        json.dumps(
            {"steps": way.steps, "ranges": way.ranges, **({"flow": True} if way.flow else {})}
        ),
    )
    return _encode_png(_tile([way.maps, way.masks]), text)


def encode_previews(frames: Sequence[Image.Image]) -> bytes:
    """Predicted pictures, one for each step of a trace, as a PNG."""
    return _encode_png(_tile([frames]))


def read_trace(path: Path) -> Trace:
    """What `encode_trace` wrote.

    Raises:
        UserError: not a trace.
    """
    with _open(path, "a trace") as image:
        head = _parse_head(image)
        maps, masks = _split(image, 2, len(head.steps))
        return Trace(head.steps, head.ranges, maps, masks, head.flow)


def read_head(path: Path) -> Head:
    """What a trace says beside its pictures, which are not read.

    Raises:
        UserError: not a trace.
    """
    with _open(path, "a trace") as image:
        return _parse_head(image)


@contextmanager
def _open(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, and what may be wrong with it in one line.

    Raises:
        UserError: it is not `what` it should be.
    """
    try:
        with Image.open(require_file(path)) as image:
            yield image
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not {what} ({read_first_line(error, type(error).__name__)})"
        ) from error


def _parse_head(image: Image.Image) -> Head:
    told = json.loads(image.info[KEY])
    steps = tuple(map(int, told["steps"]))
    ranges = tuple((float(low), float(high)) for low, high in told["ranges"])
    if not steps or len(ranges) != len(steps):
        raise ValueError(f"{len(ranges)} ranges for {len(steps)} steps")
    if not all(math.isfinite(timestep) for span in ranges for timestep in span):
        raise ValueError("a timestep that is no number")
    size = (image.width // len(steps) * len(steps), image.height // 2 * 2)
    return Head(steps, ranges, size, bool(told.get("flow")))


def read_previews(path: Path, columns: int) -> tuple[Image.Image, ...]:
    """What `encode_previews` wrote.

    Raises:
        UserError: not a picture.
    """
    with _open(path, "a picture") as image:
        return _split(image, 1, columns)[0]


def draw_levels(timesteps: Array) -> Image.Image:
    """Timesteps (H, W) as colours: 0 is violet, 1000 yellow."""
    place = np.clip(timesteps / 1000, 0, 1) * (len(VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(VIRIDIS)), VIRIDIS[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def _draw_regions(weights: Array) -> Image.Image:
    colours = SUBJECTS[np.arange(len(weights)) % len(SUBJECTS)]
    if len(weights) and (weights == 1).all(axis=(1, 2)).any():
        colours = np.broadcast_to(WHOLE, colours.shape)
    total = np.maximum(weights.sum(0), 1)[..., None]
    return Image.fromarray(
        (np.einsum("shw,sc->hwc", weights, colours) / total).round().astype(np.uint8)
    )


def _tile(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    canvas = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            canvas.paste(cell, (x * width, y * height))
    return canvas


def _split(image: Image.Image, rows: int, columns: int) -> list[tuple[Image.Image, ...]]:
    width, height = image.width // columns, image.height // rows
    picture = image.convert("RGB")
    boxes = [[(x * width, y * height) for x in range(columns)] for y in range(rows)]
    return [tuple(picture.crop((x, y, x + width, y + height)) for x, y in row) for row in boxes]


def _encode_png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
