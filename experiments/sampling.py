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

import numpy as np
from PIL import Image
from tqdm import tqdm

from evaluation import pictures
from evaluation.choices import build
from evaluation.results import write_bytes
from evaluation.traces import PREVIEWS, TRACES, Trace, encode, encode_previews, shown_steps, trace
from experiments.folder import STRIP_FILE, missing_items, wants_strip
from experiments.plan import Item, Plan, build_mask

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm.algorithm import StepRecord
    from asyndm.masks import Mask


class Tracer:
    """Keeps what `evaluation.traces` shows of some steps, as the sampler's callback, on the device until the end."""

    def __init__(self, num_inference_steps: int, previews: int) -> None:
        self.steps = shown_steps(num_inference_steps)
        self.previews = previews
        self.timesteps: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.samples: list[Tensor] = []

    def __call__(self, record: StepRecord) -> None:
        if record.step in self.steps:
            self.timesteps.append(record.timesteps)
            self.weights.append(record.weights)
            self.samples.append(record.sample[: self.previews])

    def traces(self) -> list[Trace]:
        """The way of each picture of the batch."""
        timesteps, weights = (
            [step.cpu().double().numpy() for step in steps] for steps in (self.timesteps, self.weights)
        )
        return [
            trace(self.steps, np.stack([t[b] for t in timesteps]), np.stack([w[b] for w in weights]))
            for b in range(len(timesteps[0]))
        ]

    def decoded(self, pipe: Any) -> list[list[Image.Image]]:
        """The predicted clean pictures of the first images, one at each step kept."""
        from asyndm.sampler import decode

        steps = [decode(pipe, sample, "pil") for sample in self.samples] if self.previews else []
        return [list(frames) for frames in zip(*steps, strict=True)]


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
            first = batch[0] is plan.items[0]
            tracer = Tracer(plan.identity["num_inference_steps"], plan.config["pictures"] if first else 0)
            images = _sample(plan, pipe, mask, batch, tracer)
            traces = tracer.traces()
            for item, image, way in zip(batch, images, traces, strict=True):
                if item in missing:
                    write_bytes(plan.folder / TRACES / item.name, encode(way), durable=False)
                    write_bytes(plan.folder / item.file, png(image), durable=False)
                    saved(item)
                    progress.update()
            if tracer.previews:
                draw_strip(plan, batch, images, traces, tracer.decoded(pipe))


def draw_strip(
    plan: Plan,
    batch: Sequence[Item],
    images: Sequence[Image.Image],
    traces: Sequence[Trace],
    previews: Sequence[Sequence[Image.Image]],
) -> None:
    """Writes the predicted pictures of the first images, and then the strip of them."""
    for item, frames in zip(batch, previews, strict=False):
        write_bytes(plan.folder / PREVIEWS / item.name, encode_previews(frames), durable=False)
    count = len(previews)
    captions = [item.prompt.text for item in batch[:count]]
    write_bytes(
        plan.folder / STRIP_FILE, png(pictures.strip(images[:count], captions, traces[:count], previews))
    )


def _sample(plan: Plan, pipe: Any, mask: Mask, batch: Sequence[Item], tracer: Tracer) -> list[Image.Image]:
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
        callback=tracer,
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
