"""What a run is known by: everything that can change a pixel or a score of it.

Files are known by their content (weights, prompts with all that is said of them, and mask images by
their SHA-256), and settings that cannot matter are put in one canonical form: the curve and the
subjects where no pixel is on the curve, the negative prompt where guidance is off. A size in pixels
is taken as given, also where it is the model's own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from asyndm.curves import Curve, Linear
from asyndm.errors import UserError
from asyndm.masks import Mask, NoMask
from asyndm.solvers import Solver
from evaluation.choices import build, find_object, read_arguments
from evaluation.networks.weights import hash_files
from evaluation.runs.files import hash_file
from evaluation.runs.prompts import Prompt
from experiments.engine import schema
from experiments.engine.guidance import GuidanceLike, build_guidance, is_off, needs_subjects
from experiments.engine.settings import find_device, read_pipeline_arguments
from experiments.engine.values import find_parameters, is_unset, restore_values

RECIPE = 2
"""Raise it when the sampler or a loader begins to make other pixels of the same settings."""

HOW = ("path", "revision", "device", "threads", "offload", "vae_slicing", "lora")
"""Settings of a model that say where it lies and how it is run, not which it is; files are known by
their content."""
ADVICE = ("num_inference_steps", "guidance_scale", "eta", "pipeline_arguments", "guided")
"""What a model recommends; it counts as what is made of it."""
READING = ("attention_factor", "attention_layers", "attention_keys", "attention_text", "text_level")
"""What masks are made of."""
ADDED = frozenset({"grow", "rehearsal_steps", "next_best", "layout_of", "ahead"})
"""Settings of masks that are told only where they are not their class's own: so runs were known
before there were such, and so a table has only what is unusual."""
SCALARS = ("num_inference_steps", "eta", "seed", "images_per_prompt", "height", "width")
"""Settings that are known as they are given."""
Built = TypeVar("Built")


@dataclass(frozen=True)
class PromptList:
    """The prompts of a run with what is worked out of all of them, once for all runs that share
    them."""

    prompts: tuple[Prompt, ...]

    @cached_property
    def digest(self) -> str:
        said = json.dumps([prompt.to_dict() for prompt in self.prompts])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @cached_property
    def without_subjects(self) -> PromptList:
        return PromptList(tuple(replace(prompt, subjects=()) for prompt in self.prompts))

    @cached_property
    def without_negative_prompts(self) -> PromptList:
        return PromptList(tuple(replace(prompt, negative_prompt=None) for prompt in self.prompts))

    @cached_property
    def negative_prompts(self) -> str | None:
        """A digest of those that prompts have of their own; None: none has."""
        own = {
            p.prompt_id: p.negative_prompt for p in self.prompts if p.negative_prompt is not None
        }
        said = json.dumps(own, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:6] if own else None

    @cached_property
    def concavities(self) -> frozenset[float]:
        """Those that subjects have of their own."""
        own = {subject.concavity for prompt in self.prompts for subject in prompt.subjects}
        return frozenset(value for value in own if value is not None)


def identify(config: Mapping[str, Any], prompts: PromptList) -> dict[str, Any]:
    """What a run of these settings is known by.

    Args:
        config: resolved, and checked by `settings.check_settings`.

    Raises:
        UserError: a choice that is no class of its group, or a file that is not there.
    """
    method = {group: identify_choice(group, config[group]) for group in ("mask", "curve")}
    mask = build_choice("mask", config["mask"], Mask)  # type: ignore[type-abstract]
    curve = build_choice("curve", config["curve"], Curve)  # type: ignore[type-abstract]
    guidance = build_guidance(_drop_unset(config["guidance"]))
    if not (mask.bends and any(map(curve.bends, (curve.concavity, *prompts.concavities)))):
        # No pixel leaves the line: whatever was chosen, this is DM, which reads no subjects.
        mask = NoMask()
        prompts = prompts if needs_subjects(guidance) else prompts.without_subjects
        straight = {"mask": NoMask, "curve": Linear}
        method = {group: {"_target_": _find_path(kind)} for group, kind in straight.items()}
    arguments = read_pipeline_arguments(config["model"]) | read_pipeline_arguments(config)
    negative, noise = prompts.negative_prompts, config["noise"]
    return {
        "recipe": RECIPE,
        "model": {**identify_model(config["model"]), "dtype": _resolve_dtype(config)},
        **method,
        "guidance": _identify_guidance(config),
        **_identify_solver(config),
        "pipeline_arguments": arguments,
        **_identify_reading(config, mask, guidance),
        "prompts": prompts.digest,
        **({"negative_prompts": negative} if negative else {}),
        **{key: config[key] for key in SCALARS},
        **({"noise": noise} if noise != schema.Noise.shared.name else {}),
    }


def identify_choice(group: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice without its name, files by what is in them.

    Raises:
        UserError: there is no such file.
    """
    content = {"_target_": choice["_target_"], **read_arguments(choice)}
    usual = _read_defaults(content["_target_"])
    for name in ADDED & content.keys() & usual.keys():
        if content[name] == usual[name]:
            del content[name]
    if image := content.pop("image", None):
        named = image if isinstance(image, Mapping) else {"": image}
        hashes = {name: _hash_mask(f"{group}.image", path) for name, path in named.items()}
        content["sha256"] = hashes if named is image else hashes[""]
    return content


def _read_defaults(target: str) -> dict[str, Any]:
    """What a class takes of its settings where they are not given; nothing of one that cannot be
    found, which building it tells."""
    try:
        parameters = inspect.signature(find_object(target)).parameters
    except Exception:  # whatever a module of one's own raises
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _hash_mask(setting: str, path: Any) -> str:
    file = Path(str(path)).expanduser()
    if not file.is_file():
        raise UserError(f"{setting}={path}: no such file")
    return hash_file(file)[:16]


def identify_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the identity says of a model, but for "auto" as its precision. Files that have not
    changed since they were last asked about are not read again.

    Raises:
        UserError: as `find_local_model`.
    """
    content: dict[str, Any] = {
        key: value
        for key, value in read_arguments(model).items()
        if key not in (*HOW, *ADVICE) and value not in (None, False)
    }
    where = find_local_model(model)
    if where is None:
        content |= {"hub": model["path"], "revision": model["revision"]}
    else:
        content["weights"] = _hash_local(where)
    content |= _name_other_class(schema.Model, model)
    if (configs := content.pop("config", None)) is not None:
        found = Path(configs).expanduser()
        content["config"] = hash_files(found) if found.is_dir() else configs
    if (lora := model.get("lora")) is not None:
        content["lora"] = _hash_local(Path(lora).expanduser()) or lora
    return content


def find_local_model(model: Mapping[str, Any]) -> Path | None:
    """The folder or single file of a model on this disk; None for one of the hub.

    Raises:
        UserError: it is a folder's path, but there is no pipeline.
    """
    path = Path(model["path"]).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(f"model.path={path}: not a diffusers pipeline (no model_index.json)")
        return path
    is_local = path.is_absolute() or str(path).startswith(".")
    if is_local or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise UserError(f"model.path={path}: no such folder")
    return None


def build_choice(group: str, choice: Mapping[str, Any], expected: type[Built]) -> Built:
    """An object of the class that a group's choice stands for.

    Raises:
        UserError: as `evaluation.choices.build`, or it is something else.
    """
    built = build(choice, group)
    if not isinstance(built, expected):
        raise UserError(f"{group}._target_={choice['_target_']}: not a {expected.__name__}")
    return built


def build_solver(choice: Mapping[str, Any]) -> Solver:
    """The solver that a choice stands for, of a config or an identity.

    Raises:
        UserError: as `build_choice`.
    """
    return build_choice("solver", restore_values(choice), Solver)  # type: ignore[type-abstract]


def drop_unread_negative_prompts(
    config: Mapping[str, Any], prompts: PromptList
) -> tuple[PromptList, str]:
    """The prompts without those negative ones that nothing reads, and where such are from: ""
    where there are none.

    Raises:
        UserError: as `build_guidance`.
    """
    if not _is_unguided(config):
        return prompts, ""
    if prompts.negative_prompts:
        return prompts.without_negative_prompts, "the negative prompts of prompt_set"
    return prompts, "guidance.negative_prompt" if config["guidance"].get("negative_prompt") else ""


def _identify_guidance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of it, with its class unless that is classifier-free guidance."""
    content = _drop_unset(config["guidance"])
    if _is_unguided(config):
        content.pop("negative_prompt", None)
    return content


def _drop_unset(choice: Mapping[str, Any]) -> dict[str, Any]:
    parameters = find_parameters(choice["_target_"])
    content = {
        key: value
        for key, value in read_arguments(choice).items()
        if not is_unset(key, value, parameters)
    }
    return content | _name_other_class(schema.Guidance, choice)


def _identify_solver(config: Mapping[str, Any]) -> dict[str, Any]:
    """The class of a solver and its settings, unless it is the usual one."""
    choice = config["solver"]
    target = _name_other_class(schema.Solver, choice)
    build_solver(choice)
    return {"solver": {**target, **read_arguments(choice)}} if target else {}


def _is_unguided(config: Mapping[str, Any]) -> bool:
    guidance = build_guidance(_drop_unset(config["guidance"]))
    return is_off(guidance, bool(config["model"].get("guided", True)))


def _identify_reading(
    config: Mapping[str, Any], mask: Mask, guidance: GuidanceLike
) -> dict[str, Any]:
    """What a mask is made of, where it is made of attention, or a guidance of the subjects'; the
    level of text tokens, where there is more than one."""
    reading = {name: config[name] for name in READING}
    if mask.reads_attention or mask.needs_subjects or needs_subjects(guidance):
        return reading
    unread = {name: _find_default(name) for name in READING}
    return unread if mask.uniform else unread | {"text_level": reading["text_level"]}


def _find_default(setting: str) -> Any:
    value = getattr(schema.Config, setting)
    return value.name if isinstance(value, Enum) else value


def _name_other_class(usual: type[schema.Choice], choice: Mapping[str, Any]) -> dict[str, str]:
    """A choice's class; nothing where it is the usual one: so runs were known before there were
    others."""
    target: str = choice["_target_"]
    return {} if target == usual._target_ else {"_target_": target}


def _find_path(kind: type) -> str:
    """What `_target_` says of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _resolve_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that "auto" comes to; torch is asked only where the device is "auto" as well."""
    dtype: str = config["model"]["dtype"]
    if dtype != "auto":
        return dtype
    device = find_device(config)
    if device == "auto":
        from asyndm.models import choose_device

        device = choose_device(device).type
    return "float32" if device == "cpu" else "float16"


@cache
def _hash_once(file: Path, *status: int) -> str:
    return hash_file(file)[:16]


def _hash_local(path: Path) -> str | None:
    """A hash of a folder or file of this disk; None where there is none."""
    if path.is_dir():
        return hash_files(path)
    return _hash_file(path) if path.is_file() else None


def _hash_file(file: Path) -> str:
    """A hash of a large file, which is read again only where its size or a time of it is
    another."""
    status = file.stat()
    return _hash_once(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
