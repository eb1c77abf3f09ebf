"""What can be known to fail is refused before the first network evaluation, of any job of a
sweep."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asyndm.errors import UserError, join_lines, read_first_line
from asyndm.guidance import Guidance
from asyndm.protocols import Pipeline
from evaluation.choices import find_object, read_arguments
from evaluation.messages import is_quiet
from evaluation.runs.row_files import warn_once
from evaluation.runs.text_files import shorten
from experiments.engine.guidance import (
    as_library_guidance,
    needs_subjects,
    read_sampler_arguments,
)
from experiments.engine.identity import ADVICE, READING, build_choice, find_local_model
from experiments.engine.manifest import MANIFEST_VARIABLE
from experiments.engine.plan import Plan, build_mask, make_metrics
from experiments.engine.trackers import Tracker

logger = logging.getLogger(__name__)

NO_REASON = "no reason given"
OTHERWISE = {"mask": "mask=none", "guidance": "guidance=cfg"}
"""What needs no subjects."""
FREE_BYTES = 32 * 2**20
"""What must stay free on the disk beside the pictures."""


class Checks:
    """Of the runs of a sweep: what several of them have in common is checked once."""

    def __init__(self, elsewhere: bool = False) -> None:
        """
        Args:
            elsewhere: the runs are made on other machines, whose devices are not known here.
        """
        self._elsewhere = elsewhere
        self._passed: set[str] = set()

    def __call__(self, plan: Plan) -> None:
        """Everything that can be checked without loading the model.

        Raises:
            UserError: the first thing that is wrong.
        """
        from asyndm.guidance.checks import check_guidance
        from asyndm.inputs import check_call, find_picture_size

        identity, model = plan.identity, plan.config["model"]
        device = (plan.device, identity["model"]["dtype"], model.get("offload", "none"))
        if not self._elsewhere:
            self._once("device", device, lambda: check_device(*device))
        _check_objective(plan)
        self._once("model", model, lambda: check_model(model))
        places = [model.get(name) for name in ("path", "revision", "config")]
        parts = read_parts(model["name"], *places, json.dumps(model.get("scheduler")))
        height, width = find_picture_size(parts, plan.config["height"], plan.config["width"])
        given = {**read_sampler_arguments(identity["guidance"]), **identity["pipeline_arguments"]}
        check_call(parts, identity["num_inference_steps"], "pil", given)
        guidance = as_library_guidance(plan.guidance)
        # A prompt's own negative prompt is one, where all have one.
        own = all(prompt.negative_prompt for prompt in plan.prompts)
        led = {"negative_prompt": plan.prompts[0].negative_prompt} if own else {}
        check_guidance(parts, guidance, plan.solver, {**given, **led}, identity["eta"])
        check_negative_prompts(plan, parts, given)
        warn_without_effect(plan)
        check_writable(plan.output_dir, plan.image_count * height * width)
        build_choice("tracker", plan.config["tracker"], Tracker).check()
        masked = (identity["mask"], identity["prompts"])
        self._once("mask", masked, partial(check_mask, plan))
        if needed_by := find_subjects_reader(plan):
            read = [identity[name] for name in ("prompts", "pipeline_arguments", *READING)]
            check = partial(check_subjects, plan, parts, needed_by)
            self._once("subjects", (model, read), check)
        looks = (model, identity["guidance"], guidance.needs_subjects and identity["prompts"])
        self._once("guidance", looks, partial(check_probe, plan, parts, guidance))
        for name, metric in make_metrics(plan).items():
            seen = (plan.config["metric"], identity["prompts"], height, width)
            self._once(f"metric {name}", seen, partial(metric.check, plan.prompts, (height, width)))

    def _once(self, what: str, of: object, check: Callable[[], None]) -> None:
        key = f"{what} {json.dumps(of, sort_keys=True)}"
        if key not in self._passed:
            logger.info("checking %s", what)
            check()
            self._passed.add(key)


def check(plan: Plan) -> None:
    """Everything about a single run that can be checked without loading its model.

    Raises:
        UserError: the first thing that is wrong.
    """
    Checks()(plan)


def check_choices(plan: Plan) -> None:
    """Builds the choice that a run is not known by, so that one that is none is refused where the
    run is found, too.

    Raises:
        UserError: there is no such class, it cannot be built with these settings, or it is no
            tracker.
    """
    build_choice("tracker", plan.config["tracker"], Tracker)


def check_negative_prompts(plan: Plan, parts: Pipeline, arguments: Mapping[str, Any]) -> None:
    """Refuses those that the pipeline would not read: it takes none, or only with a guidance that
    is off."""
    from asyndm.networks.base import read_call_parameters

    own = next((prompt for prompt in plan.prompts if prompt.negative_prompt), None)
    if own is None and not arguments.get("negative_prompt"):
        return
    file = _name_file(plan.config["prompt_set"])
    where = (
        "guidance.negative_prompt"
        if own is None
        else f"{file}prompt {own.prompt_id}: its negative prompt"
    )
    name, parameters = type(parts).__name__, read_call_parameters(parts)
    if "negative_prompt" not in parameters:
        raise UserError(f"{where}: {name} takes none; leave it out")
    if (guidance := parameters.get("true_cfg_scale")) is None:
        return
    if not (scale := arguments.get("true_cfg_scale", guidance.default)) > 1:
        raise UserError(
            f"{where}: {name} reads none while true_cfg_scale is {scale:g}; leave it out, or add "
            "pipeline_arguments={true_cfg_scale: 4}, at twice the cost"
        )


def warn_without_effect(plan: Plan) -> None:
    """Warns of negative prompts that no guidance leads away from, and of what a guidance does not
    do in so many steps: of a sweep where it is planned, not in its jobs."""
    planned = os.environ.get(MANIFEST_VARIABLE)
    if planned and Path(planned).exists():
        return
    guidance = as_library_guidance(plan.guidance)
    if idle := guidance.find_idle(plan.identity["num_inference_steps"]):
        warn_once(f"guidance={guidance.name} {idle}")
    if plan.without_effect:
        scale = plan.config["guidance"]["guidance_scale"]
        file = _name_file(plan.config["prompt_set"]) if "prompt_set" in plan.without_effect else ""
        warn_once(
            f"{file}{plan.without_effect}: without effect where guidance is off "
            f"(guidance_scale={scale:g}); to have one, choose guidance=cfg with more than 1"
        )


def _check_objective(plan: Plan) -> None:
    """Refuses a search for the best on the prompts that the result is told of."""
    name, split = plan.config["objective"], plan.config["prompt_set"].get("split")
    if name is not None and name not in plan.config["metric"]:
        raise UserError(f"objective={name}: not among the metrics; add metric={name}")
    if name is not None and plan.shard is not None:
        raise UserError(
            f"objective={name}: is of a whole run; leave shard={plan.config['shard']} out"
        )
    if name is not None and split == "test":
        raise UserError(f"objective={name}: never on test prompts; choose prompt_set.split=val")


@lru_cache(maxsize=8)
def read_parts(
    name: str, path: str, revision: str | None, config: str | None, scheduler: str
) -> Pipeline:
    """What of a model on this disk or the hub is known without its weights, read once; see
    `asyndm.models.read_parts`, whose `scheduler` it is told as JSON.

    Raises:
        UserError: it cannot be read.
    """
    from diffusers.utils import logging

    from asyndm import models

    logging.disable_progress_bar()
    try:
        parts: Pipeline = models.read_parts(path, revision, config, json.loads(scheduler))
    except UserError as error:
        raise UserError(f"model={name}: {error}") from error
    return parts


def check_writable(output_dir: Path, expected_bytes: int) -> None:
    """Refuses a place that cannot take the run's files; makes nothing there.

    Raises:
        UserError: it cannot be made or written to, or has too little room.
    """
    there = next(
        folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists()
    )
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise UserError(
            f"output_dir={output_dir}: cannot be written to ({error.strerror}); choose another"
        ) from error
    if free < expected_bytes + FREE_BYTES:
        needed = (expected_bytes + FREE_BYTES) / 2**20
        raise UserError(
            f"output_dir={output_dir}: {free / 2**20:.0f} MB free, about {needed:.0f} MB needed"
        )


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
    """Refuses a model that is neither on this disk nor to be had from the hub, or that nothing
    loads."""
    target = model["_target_"]
    given = {
        key: value
        for key, value in read_arguments(model).items()
        if key not in ("threads", *ADVICE)
    }
    try:
        inspect.signature(find_object(target)).bind(**given)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"model._target_={target}: {join_lines(error)}") from error
    if (lora := model.get("lora")) is not None:
        from asyndm.loras import find_lora

        try:
            find_lora(lora)
        except UserError as error:
            raise UserError(f"model.{error}") from error
    if find_local_model(model) is not None:
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        hf_hub_download(model["path"], "model_index.json", revision=model["revision"])
    except Exception as error:
        raise UserError(
            f"model={model['name']}: {model['path']} is not in the local cache and the hub cannot "
            f"be reached ({type(error).__name__}: {read_first_line(error, NO_REASON)}); give "
            "model=folder model.path=DIR"
        ) from error


def check_mask(plan: Plan) -> None:
    """Refuses a mask that does not fit a prompt, or names other subjects than it has."""
    mask = build_mask(plan)
    for prompt in plan.prompts:
        try:
            mask.prepare([prompt.text], [plan.config["seed"]]).check([prompt.subjects])
        except UserError as error:
            file = _name_file(plan.config["prompt_set"])
            raise UserError(f"{file}prompt {prompt.prompt_id}: {error}") from error


def find_subjects_reader(plan: Plan) -> str:
    """The choice that needs subjects, ``mask=dynamic``; "" where there is none."""
    if build_mask(plan).needs_subjects:
        return f"mask={plan.config['mask']['name']}"
    return f"guidance={plan.config['guidance']['name']}" if needs_subjects(plan.guidance) else ""


def check_subjects(plan: Plan, parts: Pipeline, needed_by: str) -> None:
    """Refuses prompts without subjects, a subject that the model's tokenizer loses or cuts off, and
    layers it does not have.

    Args:
        needed_by: the choice that needs them.
    """
    from asyndm.attention import Reading
    from asyndm.networks import find_denoiser, find_family

    factor, layers, keys, text = (plan.identity[name] for name in READING if name != "text_level")
    reading = Reading(factor, layers, keys, text)
    family = find_family(parts)
    family.attention(find_denoiser(parts), [[[]]], reading)
    file = _name_file(plan.config["prompt_set"])
    for prompt in tqdm(
        plan.prompts,
        desc="checking subjects",
        unit="prompt",
        delay=2,
        leave=False,
        disable=is_quiet(),
    ):
        if not prompt.subjects:
            raise UserError(
                f"{file}prompt {shorten(prompt.text)} has no subjects, which "
                f"{needed_by} needs; or choose {OTHERWISE[needed_by.partition('=')[0]]}"
            )
        try:
            family.positions(
                parts, prompt.text, prompt.subjects, reading, plan.identity["pipeline_arguments"]
            )
        except UserError as error:
            raise UserError(f"{file}prompt {prompt.prompt_id}: {error}") from error


def check_probe(plan: Plan, parts: Pipeline, guidance: Guidance) -> None:
    """Refuses a guidance that looks into the network for layers which it does not have, or that
    needs what is not installed: it is told the first prompt."""
    from asyndm.guidance.prompts import read_prompt_tokens
    from asyndm.networks import find_denoiser, find_family

    given, tokens = plan.identity["pipeline_arguments"], []
    if guidance.needs_subjects:
        first, family = plan.prompts[0], find_family(parts)
        tokens = [read_prompt_tokens(family, parts, first.text, first.subjects, given)]
    guidance.make_probe(find_denoiser(parts), tokens)


def _name_file(prompt_set: Mapping[str, Any]) -> str:
    """The file that its prompts are from, to begin a message with; nothing where there is none."""
    found = [
        prompt_set[name] for name in ("path", "prompts_path", "metadata") if name in prompt_set
    ]
    return f"{found[0]}: " if found else ""
