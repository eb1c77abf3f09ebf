"""Making the images of a run that are not there yet.

A picture's last bits can depend on the size of its batch (the network's sums are taken in another order). So
the batches of a run are fixed when it begins, and a missing image is made by computing its whole batch again:
on one machine it comes back byte for byte, whatever is missing and whatever `batch_size` is given then.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from evaluation import pictures
from evaluation.choices import build
from evaluation.results import write_bytes
from experiments.folder import STRIP_FILE, missing_items, wants_strip
from experiments.plan import Item, Plan, build_mask

if TYPE_CHECKING:
    from asyndm.algorithm import StepRecord
    from asyndm.masks import Mask


class Strip:
    """Records the first pictures' timestep maps and masks, as the sampler's callback."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.timesteps: list[pictures.Array] = []
        self.weights: list[pictures.Array] = []

    def __call__(self, record: StepRecord) -> None:
        self.timesteps.append(record.timesteps[: self.count].cpu().double().numpy())
        self.weights.append(record.weights[: self.count].cpu().double().numpy())

    def draw(self, images: Sequence[Image.Image], items: Sequence[Item]) -> Image.Image:
        captions = [item.prompt.text for item in items[: self.count]]
        return pictures.strip(images[: self.count], captions, self.timesteps, self.weights)


def pending_batches(plan: Plan, batch_size: int, missing: set[Item]) -> list[tuple[Item, ...]]:
    """The batches of the run's fixed division that have something to make."""
    starts = range(0, len(plan.items), batch_size)
    batches = [plan.items[start : start + batch_size] for start in starts]
    return [b for i, b in enumerate(batches) if not missing.isdisjoint(b) or (i == 0 and wants_strip(plan))]


def sample_missing(plan: Plan, batch_size: int, pipe: Any, saved: Callable[[Item], None]) -> None:
    """Makes and writes the missing images, telling of each by `saved`.

    Raises:
        UserError: what the sampler refuses.
    """
    mask, missing = build_mask(plan), missing_items(plan)
    done = len(plan.items) - len(missing)
    with tqdm(total=len(plan.items), initial=done, unit="img", desc=plan.label, mininterval=0.5) as progress:
        for batch in pending_batches(plan, batch_size, missing):
            first = batch[0] is plan.items[0] and plan.config["pictures"] > 0
            recorder = Strip(min(plan.config["pictures"], len(batch))) if first else None
            images = _sample(plan, pipe, mask, batch, recorder)
            for item, image in zip(batch, images, strict=True):
                if item in missing:
                    write_bytes(plan.folder / item.file, png(image), durable=False)
                    saved(item)
                    progress.update()
            if recorder is not None:
                write_bytes(plan.folder / STRIP_FILE, png(recorder.draw(images, batch)))


def _sample(
    plan: Plan, pipe: Any, mask: Mask, batch: Sequence[Item], recorder: Strip | None
) -> list[Image.Image]:
    from asyndm.sampler import sample

    config = plan.identity
    images: list[Image.Image] = sample(
        pipe,
        [item.prompt.text for item in batch],
        [list(item.prompt.subjects) for item in batch],
        curve=build(config["curve"]),
        mask=mask,
        num_inference_steps=config["num_inference_steps"],
        eta=config["eta"],
        seed=[item.seed for item in batch],
        height=config["height"],
        width=config["width"],
        callback=recorder,
        **config["guidance"],
    )
    return images


def load_model(plan: Plan) -> Any:
    """The run's pipeline; the last one loaded stays at hand for the next job of a sweep."""
    content = plan.identity["model"]
    model = {**plan.config["model"], "dtype": content["dtype"], "device": plan.device}
    return _load(json.dumps(model), json.dumps(content))


@lru_cache(maxsize=1)
def _load(model: str, content: str) -> Any:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipe: Any = build(json.loads(model))
    return pipe


def png(image: Image.Image) -> bytes:
    """The picture as PNG, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
