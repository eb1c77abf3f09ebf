"""What can be known to fail is refused before the first network evaluation, of any job of a sweep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from asyndm.errors import UserError, first_line
from evaluation.choices import build
from experiments.plan import READING, Plan, build_mask, local_folder, metrics

NO_REASON = "no reason given"
FREE_BYTES = 32 * 2**20
"""What must stay free on the disk beside the pictures."""


def check(plan: Plan, elsewhere: bool = False) -> None:
    """Everything that can be checked without loading the model.

    Args:
        elsewhere: it is made on another machine, whose devices are not known here.

    Raises:
        UserError: the first thing that is wrong.
    """
    from asyndm.inputs import check_call, picture_size

    model = plan.config["model"]
    if not elsewhere:
        check_device(plan.device, plan.identity["model"]["dtype"], model.get("offload", "none"))
    _check_objective(plan)
    check_model(model)
    parts = read_parts(model["name"], model["path"], model.get("revision"), model.get("config"))
    height, width = picture_size(parts, plan.config["height"], plan.config["width"])
    given = {**plan.identity["guidance"], **plan.identity["pipeline_arguments"]}
    check_call(parts, plan.identity["num_inference_steps"], "pil", given)
    check_writable(plan.output_dir, len(plan.items) * height * width)
    build(plan.identity["curve"])
    mask = build_mask(plan)
    if "sha256" in plan.identity["mask"]:
        check_mask_image(plan.config["mask"]["image"])
    for prompt in plan.prompts:
        if mask.needs_subjects and not prompt.subjects:
            raise UserError(
                f"prompt {prompt.text!r} has no subjects, which mask={mask.name} needs; or choose mask=none"
            )
    if mask.needs_subjects:
        check_tokens(plan, parts)
    for metric in metrics(plan).values():
        metric.check(plan.prompts, (height, width))


def _check_objective(plan: Plan) -> None:
    """Refuses a search for the best on the prompts that the result is told of."""
    name, split = plan.config["objective"], plan.config["prompt_set"].get("split")
    if name is not None and name not in plan.config["metric"]:
        raise UserError(f"objective={name}: not among the metrics; add metric={name}")
    if name is not None and plan.shard is not None:
        raise UserError(f"objective={name}: is of a whole run; leave shard={plan.config['shard']} out")
    if name is not None and split == "test":
        raise UserError(f"objective={name}: never on test prompts; choose prompt_set.split=val")


@lru_cache(maxsize=8)
def read_parts(name: str, path: str, revision: str | None, config: str | None) -> Any:
    """What of a model on this disk or the hub is known without its weights, read once; see `asyndm.models.read_parts`.

    Raises:
        UserError: it cannot be read.
    """
    from diffusers.utils import logging

    from asyndm import models

    logging.disable_progress_bar()
    try:
        return models.read_parts(path, revision, config)
    except UserError as error:
        raise UserError(f"model={name}: {error}") from error


def check_mask_image(path: str) -> None:
    """Refuses a mask that cannot be read as a picture."""
    from asyndm.masks import read_grey

    read_grey(path)


def check_writable(output_dir: Path, expected_bytes: int) -> None:
    """Refuses a place that cannot take the run's files.

    Raises:
        UserError: it cannot be made or written to, or has too little room.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(output_dir).free
    except OSError as error:
        raise UserError(
            f"output_dir={output_dir}: cannot be written to ({error.strerror}); choose another"
        ) from error
    if free < expected_bytes + FREE_BYTES:
        needed = (expected_bytes + FREE_BYTES) / 2**20
        raise UserError(f"output_dir={output_dir}: {free / 2**20:.0f} MB free, about {needed:.0f} MB needed")


def check_device(device: str, dtype: str, offload: str = "none") -> None:
    """Refuses a GPU that is not there, and half precision or offloading without one."""
    from asyndm.models import check_offload, choose_device, choose_dtype

    where = choose_device(device)
    try:
        choose_dtype(dtype, where)
        check_offload(offload, where)
    except UserError as error:
        raise UserError(f"model.{error}") from error


def check_model(model: Mapping[str, Any]) -> None:
    """Refuses a model that is neither on this disk nor to be had from the hub."""
    if local_folder(model) is not None:
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        hf_hub_download(model["path"], "model_index.json", revision=model["revision"])
    except Exception as error:
        raise UserError(
            f"model={model['name']}: {model['path']} is not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}: {first_line(error, NO_REASON)}); give model=folder model.path=DIR"
        ) from error


def check_tokens(plan: Plan, parts: Any) -> None:
    """Refuses a subject of any prompt that the model's tokenizer loses or cuts off, and layers it does not have."""
    from asyndm.attention import Reading
    from asyndm.networks import denoiser, find_family

    factor, layers, keys, text = (plan.identity[name] for name in READING if name != "text_level")
    reading = Reading(factor, layers, keys, text)
    family = find_family(parts)
    family.attention(denoiser(parts), [[[]]], reading)
    for prompt in plan.prompts:
        try:
            family.positions(
                parts, prompt.text, prompt.subjects, reading, plan.identity["pipeline_arguments"]
            )
        except UserError as error:
            raise UserError(f"prompt {prompt.prompt_id}: {error}") from error
