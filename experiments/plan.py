"""From a composed config to a run: its prompts, its identity, its folder and its images. Nothing heavy.

The identity holds everything that can change a pixel or a score of it. Files are known by their content (weights,
prompts with all that is said of them, and mask images by their SHA-256), and settings that cannot matter are put in one
canonical form: the curve and the subjects under mask=none, the negative prompt without guidance. A size in pixels is
taken as given, also where it is the model's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from asyndm.errors import UserError, first_line
from evaluation.choices import build, build_metrics, settings
from evaluation.metrics import Metric
from evaluation.results import sha256
from evaluation.runs.prompts import Prompt, PromptSet
from evaluation.runs.subject_words import SubjectChoice
from evaluation.tables import curve_name, method_name
from evaluation.weights import digest
from experiments.config import Noise

if TYPE_CHECKING:
    from asyndm.masks import Mask

RECIPE = 2
"""Raise it when the sampler or a loader begins to make other pixels of the same settings."""

NO_MASK, STATIC_MASK, LINEAR = "asyndm.masks.NoMask", "asyndm.masks.StaticMask", "asyndm.curves.Linear"
EXTERNAL_MASK = "asyndm.masks.ExternalMask"
UNREAD = (NO_MASK, "asyndm.masks.GlobalMask", EXTERNAL_MASK)
"""Masks that are not made of attention."""
RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "eta": (0, 1),
    "mask_threshold": (0, 1000),
    "seed": (0, 2**63 - 1),
    "images_per_prompt": (1, 1000),
    "model.threads": (1, 4096),
    "batch_size": (1, 10_000),
    "pictures": (0, 64),
    "jobs_per_gpu": (1, 64),
    "height": (8, 8192),
    "width": (8, 8192),
    "curve.concavity": (0, 1),
    "mask.threshold": (0, 1000),
    "guidance.guidance_scale": (0, 1000),
    "attention_factor": (1, 64),
}
HOW = ("path", "revision", "device", "threads", "offload", "vae_slicing", "lora")
"""Settings of a model that say where it lies and how it is run, not which it is; files are known by their content."""
ADVICE = ("num_inference_steps", "guidance_scale", "eta", "pipeline_arguments", "guided")
"""What a model recommends; it counts as what is made of it."""
SETTLED = {
    **dict.fromkeys(
        ("num_inference_steps", "height", "width", "eta"),
        "is a setting of its own, without pipeline_arguments",
    ),
    "guidance_scale": "say guidance.guidance_scale",
    "num_images_per_prompt": "say images_per_prompt",
    **dict.fromkeys(
        ("prompt", "generator", "output_type", "return_dict", "latents"), "is set by each run itself"
    ),
}
"""Arguments of a pipeline's call that have another place."""
READING = ("attention_factor", "attention_layers", "attention_keys", "attention_text", "text_level")
"""What masks are made of."""
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Item:
    """One image of a run."""

    prompt: Prompt
    image_index: int
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.prompt_id, self.image_index

    @property
    def name(self) -> str:
        """The file name of the picture, and of what is kept beside it."""
        return f"{self.prompt.prompt_id}_{self.image_index:03d}.png"

    @property
    def file(self) -> str:
        """Where the picture lies, relative to the run's folder."""
        return f"images/{self.name}"


@dataclass(frozen=True)
class Plan:
    """A run before it is made. `config` is what was asked, `identity` what it comes to."""

    config: dict[str, Any]
    prompts: tuple[Prompt, ...]
    identity: dict[str, Any]

    @cached_property
    def run_id(self) -> str:
        """The hash of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def output_dir(self) -> Path:
        return Path(self.config["output_dir"]).expanduser().resolve()

    @property
    def device(self) -> str:
        return chosen_device(self.config)

    @property
    def label(self) -> str:
        """The run in a few words: "shapes-AsynDM-quadratic-0.5-20"."""
        mask, curve = self.identity["mask"], self.identity["curve"]
        words = [self.config["model"]["name"], method_name(mask["_target_"])]
        if mask["_target_"] != NO_MASK:
            words += [curve_name(curve["_target_"]), f"{curve['concavity']:g}"]
        return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*words, str(self.identity["num_inference_steps"])]))

    @cached_property
    def folder(self) -> Path:
        """The run's folder: wherever its hash already is, else a readable name of its own."""
        existing = sorted(self.output_dir.glob(f"*-{self.run_id}")) if self.output_dir.is_dir() else []
        return existing[0] if existing else self.output_dir / f"{self.label}-{self.run_id}"

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All images, prompt by prompt."""
        first, own = self.config["seed"], self.config["noise"] == Noise.own.name
        return tuple(
            Item(prompt, index, (first + own * text_seed(prompt.text) + index) % 2**63)
            for prompt in self.prompts
            for index in range(self.config["images_per_prompt"])
        )

    @cached_property
    def shard(self) -> tuple[int, int] | None:
        """Number and count, of a part of the run; None: all of it."""
        if self.config["shard"] is None:
            return None
        number, _, count = self.config["shard"].partition("/")
        return int(number), int(count)

    def batches(self, size: int) -> list[tuple[int, tuple[Item, ...]]]:
        """The batches that this part of the run makes, with their numbers: of shard k of n every n-th, from the k-th.

        A shard makes whole batches: so its pictures are the same to the bit as those of the run in one.
        """
        number, count = self.shard or (1, 1)
        starts = range(0, len(self.items), size)
        return [
            (i, self.items[start : start + size]) for i, start in enumerate(starts) if i % count == number - 1
        ]


def text_seed(text: str) -> int:
    """A number below 2^32 for each text: prompts that begin with other noise say how much of a result is luck."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def make_plan(config: DictConfig) -> Plan:
    """Checks the settings, reads the prompts and works out which run it is.

    Raises:
        UserError: a setting out of its range or missing, a bad prompt, a missing file.
    """
    try:
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(": ")[2]
        raise UserError(f"{key} is missing: give {key}=...") from error
    except InterpolationKeyError as error:
        group = str(error.full_key).partition(".")[0]
        raise UserError(
            f"{error.full_key}: {first_line(error, '')}; choose another {group}, or what it goes with"
        ) from error
    _check_ranges(resolved)
    prompts = _prompts(resolved["prompt_set"], resolved["subjects"])
    return Plan(resolved, prompts, _identity(resolved, prompts))


def build_mask(plan: Plan) -> Mask:
    """The mask of the run; one made of a file is built from its path, which the identity does not hold."""
    by_file = "sha256" in plan.identity["mask"]
    mask: Mask = build(plan.config["mask"] if by_file else plan.identity["mask"])
    return mask


def metrics(plan: Plan) -> dict[str, Metric]:
    """The metrics asked for, by their name in the scores."""
    return build_metrics(plan.config["metric"])


def local_folder(model: Mapping[str, Any]) -> Path | None:
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
    if path.is_absolute() or str(path).startswith(".") or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise UserError(f"model.path={path}: no such folder")
    return None


def chosen_device(config: Mapping[str, Any]) -> str:
    """The device asked for, else the model's own."""
    device: str = config["model"]["device"] if config["device"] is None else config["device"]
    return device


def _dtype(config: Mapping[str, Any]) -> str:
    """The dtype that "auto" comes to; torch is asked only where the device is "auto" as well."""
    dtype: str = config["model"]["dtype"]
    if dtype != "auto":
        return dtype
    device = chosen_device(config)
    if device == "auto":
        from asyndm.models import choose_device

        device = choose_device(device).type
    return "float32" if device == "cpu" else "float16"


def _check_ranges(config: Mapping[str, Any]) -> None:
    for key, (low, high) in RANGES.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{key}={value}: must be between {low:g} and {high:g}")
    if config["seed"] + config["images_per_prompt"] > 2**63:
        raise UserError(
            f"seed={config['seed']}: the last image of a prompt would have a seed beyond 2^63 - 1; "
            "choose a smaller one"
        )
    _check_shard(config["shard"])
    if not config["output_dir"]:
        raise UserError("output_dir is empty: give a folder, or leave it out")
    if config["model"]["dtype"] not in DTYPES:
        raise UserError(f"model.dtype={config['model']['dtype']}: choose from {', '.join(DTYPES)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device := chosen_device(config)):
        setting = "model.device" if config["device"] is None else "device"
        raise UserError(f"{setting}={device}: choose from auto, cpu, cuda, cuda:N")


def _check_shard(shard: str | None) -> None:
    if shard is None:
        return
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"shard={shard}: give K/N with K from 1 to N, as in shard=1/8")


def _identity(config: Mapping[str, Any], prompts: tuple[Prompt, ...]) -> dict[str, Any]:
    mask, curve, guidance = (_content(config[group]) for group in ("mask", "curve", "guidance"))
    own = {subject.concavity for prompt in prompts for subject in prompt.subjects} - {None}
    if curve["_target_"] == LINEAR or not any((curve["concavity"], *own)):
        mask = {"_target_": NO_MASK}
    if mask["_target_"] == NO_MASK:
        curve = {"_target_": LINEAR}
        prompts = tuple(replace(prompt, subjects=()) for prompt in prompts)
    guidance = {
        key: value for key, value in guidance.items() if key != "_target_" and value not in (None, "")
    }
    if guidance.get("guidance_scale") in (0, 1):
        guidance.pop("negative_prompt", None)
    reading = {name: config[name] for name in READING}
    if mask["_target_"] in UNREAD:
        level = config["text_level"] if mask["_target_"] == EXTERNAL_MASK else "mean"
        reading = {"attention_keys": "joint", "attention_text": "both", "text_level": level}
    said = json.dumps([asdict(prompt) for prompt in prompts])
    scalars = ("num_inference_steps", "eta", "seed", "images_per_prompt", "height", "width")
    return {
        "recipe": RECIPE,
        "model": {**_model_content(config["model"]), "dtype": _dtype(config)},
        "mask": mask,
        "curve": curve,
        "guidance": guidance,
        "pipeline_arguments": _mapping(config["model"]) | _mapping(config),
        **{name: reading.get(name) for name in READING},
        "prompts": hashlib.sha256(said.encode()).hexdigest()[:16],
        **{key: config[key] for key in scalars},
        **({"noise": config["noise"]} if config["noise"] != Noise.shared.name else {}),
    }


def _mapping(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline's call that are asked for."""
    asked = config.get("pipeline_arguments") or {}
    if not isinstance(asked, dict):
        raise UserError(
            f"pipeline_arguments={asked}: give them by name, as in pipeline_arguments={{clip_skip: 1}}"
        )
    if settled := sorted(set(asked) & set(SETTLED)):
        raise UserError(f"pipeline_arguments.{settled[0]}: {SETTLED[settled[0]]}")
    return asked


def _content(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice without its name, files by what is in them."""
    content = {"_target_": choice["_target_"], **settings(choice)}
    if path := content.pop("image", None):
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"mask.image={path}: no such file")
        content["sha256"] = sha256(file)[:16]
    return content


def _model_content(model: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        key: value
        for key, value in settings(model).items()
        if key not in (*HOW, *ADVICE) and value not in (None, False)
    }
    where = local_folder(model)
    if where is None:
        content |= {"hub": model["path"], "revision": model["revision"]}
    else:
        content["weights"] = digest(where) if where.is_dir() else sha256(where)[:16]
    if (configs := content.pop("config", None)) is not None:
        content["config"] = digest(found) if (found := Path(configs).expanduser()).is_dir() else configs
    if (lora := model.get("lora")) is not None:
        found = Path(lora).expanduser()
        content["lora"] = digest(found) if found.is_dir() else sha256(found)[:16] if found.is_file() else lora
    return content


def _prompts(choice: Mapping[str, Any], subjects: Mapping[str, Any]) -> tuple[Prompt, ...]:
    prompt_set: PromptSet = build(choice)
    try:
        prompts = prompt_set.load()
    except UserError as error:
        raise UserError(f"prompt_set: {error}") from error
    chosen: SubjectChoice = build(subjects)
    try:
        return tuple(map(chosen.choose, prompts))
    except UserError as error:
        raise UserError(f"subjects: {error}") from error


def _embedded(name: str) -> str:
    package = find_spec("asyndm")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / "shapes" / "weights" / name)


OmegaConf.register_new_resolver("embedded", _embedded, replace=True)
