"""Making the images of a run that are not there yet.

A picture's last bits can depend on the size of its batch (the network's sums are taken in another
order), but on a CPU where `batch_invariant` is not false. So the batches of a run are fixed when it
begins, and a missing image is made by computing its whole batch again: on one machine it comes back
byte for byte, whatever is missing and whatever `batch_size` is given then.
"""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from asyndm.errors import UserError
from asyndm.protocols import Pipeline
from evaluation.choices import build
from evaluation.memory import Room, process_in_parts
from evaluation.messages import count_things, is_quiet
from evaluation.networks.weights import list_model_files
from evaluation.runs import sheets
from evaluation.runs.folder import STRIP_FILE
from evaluation.runs.locks import share_out
from evaluation.runs.traces import PREVIEWS, TRACES, Trace, encode_previews, encode_trace
from experiments.engine.behind import Behind
from experiments.engine.folder import PlannedFolder
from experiments.engine.gpu_lease import name_leased_device
from experiments.engine.guidance import is_handed_over, read_sampler_arguments
from experiments.engine.identity import ADVICE, READING, find_local_model, identify_model
from experiments.engine.plan import CHANGED_MEANWHILE, Item, Plan, build_mask
from experiments.engine.tracer import Tracer

if TYPE_CHECKING:
    from asyndm.masks import Mask

REMEDY = "choose model.dtype=float32, or less guidance"
LARGE = 2**30
"""Bytes of a model whose loading is worth a progress bar."""
WAITING = 2
"""Works of the writer that may wait: the images of one batch are written while those of the next
are sampled, and no more can be lost with the process than two batches."""
TOO_SMALL = (
    "out of memory with a single image: "
    "choose model.dtype=float16, a smaller size, or another device"
)


def sample_missing(
    folder: PlannedFolder,
    pipe: Pipeline,
    keep: Callable[[Item], None],
    count: Callable[[Counter[str]], None],
    finish: Callable[[int], None],
    free: Callable[[], bool],
) -> None:
    """Makes and writes the missing images of this part of the run; other processes may make some of
    them meanwhile. A batch is written while the next is sampled.

    Args:
        folder: of the run.
        pipe: its pipeline.
        keep: called with each image that was written.
        count: called with the "rows" of the network for a batch, the "backward" ones, and its
            number of "images".
        finish: called with the number of each batch whose images are all there.
        free: lets go of what is only kept at hand, where memory is short; whether there was any.

    Raises:
        UserError: what the sampler refuses; or images came out as no numbers, after all others are
            made.
    """
    plan, batches = folder.plan, folder.plan.batches(folder.batch_size)
    items = [item for _, batch in batches for item in batch]
    mask, room, broken = build_mask(plan), Room(folder.batch_size, free), list[Item]()
    names = [f"images-{i:05d}" for i, _ in batches]

    def is_wanted(place: int) -> bool:
        number, batch = batches[place]
        return bool(folder.missing(batch)) or (number == 0 and folder.wants_strip)

    with (
        tqdm(
            total=len(items), unit="img", desc=plan.label, mininterval=0.5, disable=is_quiet()
        ) as bar,
        closing(share_out(folder.path, names, is_wanted)) as shares,
        Behind(WAITING) as writer,
    ):
        bar.update(len(items) - len(folder.missing(items)))
        for place, held in shares:
            number, batch = batches[place]
            missing, made = folder.missing(batch), Made()
            previews = plan.config["pictures"] if number == 0 else 0
            make = partial(_sample, folder, pipe, mask, previews)
            with held.pop_all() as claim:
                for part in process_in_parts(batch, make, room, TOO_SMALL):
                    count(part.rows + Counter(images=len(part.items)))
                    writer.give(partial(_write, folder, part, missing, keep, bar.update))
                    made.add(part)
                end = partial(finish, number)
                writer.give(partial(_end_batch, folder, made, previews, end, claim.pop_all()))
            broken += made.broken
    if broken:
        raise UserError(
            f"no numbers in {count_things(len(broken), 'image')}, the first {broken[0].name} of "
            f"prompt {broken[0].prompt.text!r}; all others are kept: {REMEDY}"
        )


def _write(
    folder: PlannedFolder,
    made: Made,
    missing: Collection[Item],
    keep: Callable[[Item], None],
    tell: Callable[[], object],
) -> None:
    """Keeps those of some images that are missing, each with its trace."""
    for item, image, way in zip(made.items, made.images, made.traces, strict=True):
        if item in missing and image is not None:
            folder.write_picture(f"{TRACES}/{item.name}", encode_trace(way))
            folder.write_picture(item.file, encode_png(image))
            keep(item)
            tell()


def _end_batch(
    folder: PlannedFolder,
    made: Made,
    previews: int,
    finish: Callable[[], None],
    claim: ExitStack,
) -> None:
    """What is made of a whole batch, once its images are written; then others may claim it."""
    with claim:
        if previews and not made.broken:
            draw_strip(folder, made, previews)
        if not folder.missing(made.items):
            finish()


@dataclass
class Made:
    """Images of a batch, None where the numbers overflowed, with their ways and the predicted
    pictures of the first."""

    items: list[Item] = field(default_factory=list)
    images: list[Image.Image | None] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    previews: list[list[Image.Image]] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)

    @property
    def broken(self) -> list[Item]:
        return [item for item, image in zip(self.items, self.images, strict=True) if image is None]

    def add(self, part: Made) -> None:
        self.items += part.items
        self.images += part.images
        self.traces += part.traces
        self.previews += part.previews
        self.rows += part.rows


def draw_strip(folder: PlannedFolder, made: Made, count: int) -> None:
    """Writes the predicted pictures of the first images, and then the strip of them."""
    images = [image for image in made.images[:count] if image is not None]
    for item, frames in zip(made.items, made.previews[:count], strict=False):
        folder.write_picture(f"{PREVIEWS}/{item.name}", encode_previews(frames))
    captions = [item.prompt.text for item in made.items[:count]]
    strip = sheets.compose_strip(images, captions, made.traces[:count], made.previews[:count])
    folder.write_picture(STRIP_FILE, encode_png(strip), durable=True)


def _sample(
    folder: PlannedFolder, pipe: Pipeline, mask: Mask, previews: int, batch: Sequence[Item]
) -> Made:
    """The images of a batch. Those without any negative prompt are made apart: to some pipelines
    none is not an empty text."""
    plan, made = folder.plan, Made()
    arguments = {**make_sample_arguments(plan), "batch_invariant": folder.batch_invariant}
    default = arguments.get("negative_prompt")

    def has_negative(item: Item) -> bool:
        return bool(item.prompt.negative_prompt or default)

    for _, items in groupby(sorted(batch, key=has_negative), key=has_negative):
        alike = list(items)
        own = [item.prompt.negative_prompt for item in alike]
        more = {"negative_prompt": [text or default for text in own]} if any(own) else {}
        made.add(_sample_alike(plan, pipe, mask, previews, alike, {**arguments, **more}))
    return made


def _sample_alike(
    plan: Plan,
    pipe: Pipeline,
    mask: Mask,
    previews: int,
    batch: Sequence[Item],
    arguments: Mapping[str, Any],
) -> Made:
    from asyndm import BrokenImages, sample

    tracer = Tracer(plan.identity["num_inference_steps"], previews)
    try:
        images = sample(
            pipe,
            [item.prompt.text for item in batch],
            [list(item.prompt.subjects) for item in batch],
            mask=mask,
            seed=[item.seed for item in batch],
            callback=tracer,
            **arguments,
        )
    except BrokenImages as error:
        images = error.images
    whole = all(image is not None for image in images)
    previewed = tracer.decode(pipe) if whole else []
    return Made(list(batch), images, tracer.traces(), previewed, tracer.rows)


def make_sample_arguments(plan: Plan) -> dict[str, Any]:
    """Of `asyndm.sample`, all that is the same for every picture of the run but its mask."""
    identity = plan.identity
    objects: dict[str, Any] = {"curve": build(identity["curve"], "curve")}
    if is_handed_over(plan.guidance):
        objects["guidance"] = plan.guidance
    if "solver" in identity:
        objects["solver"] = plan.solver
    return {
        **objects,
        **{name: identity[name] for name in ("num_inference_steps", "eta", *READING)},
        **{name: identity[name] for name in ("height", "width") if identity[name] is not None},
        **read_sampler_arguments(identity["guidance"]),
        **identity["pipeline_arguments"],
    }


def load_model(plan: Plan) -> Pipeline:
    """The run's pipeline; the last one loaded stays at hand for the next job of a sweep.

    Raises:
        UserError: it cannot be loaded, or its files are no longer those that the run is known by.
    """
    content = plan.identity["model"]
    model = {
        **plan.config["model"],
        "dtype": content["dtype"],
        "device": name_leased_device(plan.device),
    }
    for name in ("threads", *ADVICE):
        model.pop(name, None)
    return _load(json.dumps(model), json.dumps(content))


@lru_cache(maxsize=1)
def _load(model: str, content: str) -> Pipeline:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    # What a guidance does not do in so many steps has been said where the run was planned.
    warnings.filterwarnings("ignore", message=r"guidance=[\w/]+ ")
    choice = json.loads(model)
    shows = not is_quiet() and _takes_long_to_load(choice)
    for bars in (diffusers_logging, transformers_logging):
        (bars.enable_progress_bar if shows else bars.disable_progress_bar)()
    pipe: Pipeline = build(choice, "model")
    if identify_model(choice) != json.loads(content):
        raise UserError(f"model.path={choice['path']}: {CHANGED_MEANWHILE}")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _takes_long_to_load(model: Mapping[str, Any]) -> bool:
    """Whether a model has gigabytes: one of the hub, or a local one whose files do."""
    where = find_local_model(model)
    files = () if where is None else [where] if where.is_file() else list_model_files(where)
    return where is None or sum(file.stat().st_size for file in files) > LARGE


def encode_png(image: Image.Image) -> bytes:
    """The picture as PNG, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
