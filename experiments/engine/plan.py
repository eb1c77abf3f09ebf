"""From a composed config to a run: its prompts, its identity, its folder and its images. Nothing
heavy.

The identity holds everything that can change a pixel or a score of it. Files are known by their
content (weights, prompts with all that is said of them, and mask images by their SHA-256), and
settings that cannot matter are put in one canonical form: the curve and the subjects under
mask=none, the negative prompt without guidance. A size in pixels is taken as given, also where it
is the model's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from asyndm.errors import UserError
from evaluation.choices import build, build_metrics, settings
from evaluation.labels import curve_name, method_name
from evaluation.messages import stands_for_nothing
from evaluation.metrics import Metric
from evaluation.networks.weights import digest
from evaluation.runs.files import sha256
from evaluation.runs.prompts import Prompt, PromptSet, SubjectChoice
from experiments.engine.guidance import CLASSIFIER_FREE
from experiments.engine.schema import Noise
from experiments.engine.settings import check_settings, chosen_device, pipeline_arguments

if TYPE_CHECKING:
    from asyndm.masks import Mask

RECIPE = 2
"""Raise it when the sampler or a loader begins to make other pixels of the same settings."""

NO_MASK, STATIC_MASK, LINEAR = (
    "asyndm.masks.NoMask",
    "asyndm.masks.StaticMask",
    "asyndm.curves.Linear",
)
EXTERNAL_MASK = "asyndm.masks.ExternalMask"
LOADER = "asyndm.models.load"
UNREAD = (NO_MASK, "asyndm.masks.GlobalMask", EXTERNAL_MASK)
"""Masks that are not made of attention."""
HOW = ("path", "revision", "device", "threads", "offload", "vae_slicing", "lora")
"""Settings of a model that say where it lies and how it is run, not which it is; files are known by
their content."""
ADVICE = ("num_inference_steps", "guidance_scale", "eta", "pipeline_arguments", "guided")
"""What a model recommends; it counts as what is made of it."""
READING = ("attention_factor", "attention_layers", "attention_keys", "attention_text", "text_level")
"""What masks are made of."""
CHANGED_MEANWHILE = "changed since this run was planned; give the same command again"
Kind = TypeVar("Kind")


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
    """A run before it is made. `config` is what was asked, `identity` what it comes to;
    `without_effect` is where the negative prompts are from that nothing reads, if there are any."""

    config: dict[str, Any]
    prompts: tuple[Prompt, ...]
    identity: dict[str, Any]
    without_effect: str = ""

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
        return re.sub(
            r"[^A-Za-z0-9._-]+", "_", "-".join([*words, str(self.identity["num_inference_steps"])])
        )

    @cached_property
    def folder(self) -> Path:
        """The run's folder: a readable name of its own, else wherever its hash already is."""
        folder = self.output_dir / f"{self.label}-{self.run_id}"
        return (
            folder if folder.is_dir() else next(iter(folders(self.output_dir, self.run_id)), folder)
        )

    @property
    def image_count(self) -> int:
        """How many images it has; `items` lists them."""
        return len(self.prompts) * int(self.config["images_per_prompt"])

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All images, prompt by prompt."""
        first, own = self.config["seed"], self.config["noise"] == Noise.own.name
        starts = [
            first + own * text_seed(prompt.text) if prompt.seed is None else prompt.seed
            for prompt in self.prompts
        ]
        return tuple(
            Item(prompt, index, (start + index) % 2**63)
            for prompt, start in zip(self.prompts, starts, strict=True)
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
        """The batches that this part of the run makes, with their numbers: of shard k of n every
        n-th, from the k-th.

        A shard makes whole batches: so its pictures are the same to the bit as those of the run in
        one.
        """
        number, count = self.shard or (1, 1)
        starts = range(0, len(self.items), size)
        return [
            (i, self.items[start : start + size])
            for i, start in enumerate(starts)
            if i % count == number - 1
        ]


def text_seed(text: str) -> int:
    """A number below 2^32 for each text: prompts that begin with other noise say how much of a
    result is luck."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def folders(output_dir: Path, run_id: str) -> list[Path]:
    """The folders there that carry a run's hash."""
    return sorted(output_dir.glob(f"*-{run_id}")) if output_dir.is_dir() else []


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
        return (
            hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:6]
            if own
            else None
        )

    @cached_property
    def concavities(self) -> frozenset[float]:
        """Those that subjects have of their own."""
        own = {subject.concavity for prompt in self.prompts for subject in prompt.subjects}
        return frozenset(value for value in own if value is not None)


Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], PromptList]
"""From the choices of prompt set and subjects to their prompts."""


def make_plan(config: DictConfig, read: Reader | None = None) -> Plan:
    """Checks the settings, reads the prompts and works out which run it is.

    Args:
        config: without Hydra's part.
        read: reads prompts; None: `read_prompts`.

    Raises:
        UserError: a setting out of its range or missing, a bad prompt, a missing file.
    """
    try:
        resolved: Any = OmegaConf.to_container(
            config, resolve=True, throw_on_missing=True, enum_to_str=True
        )
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(": ")[2]
        raise UserError(f"{key} is missing: give {key}=...") from error
    except InterpolationResolutionError as error:
        raise UserError(stands_for_nothing(error)) from error
    check_settings(resolved)
    prompts = (read or read_prompts)(resolved["prompt_set"], resolved["subjects"])
    without_effect = ""
    if _is_unguided(resolved):
        without_effect = (
            "guidance.negative_prompt" if resolved["guidance"].get("negative_prompt") else ""
        )
        if prompts.negative_prompts:
            without_effect = "the negative prompts of prompt_set"
            prompts = prompts.without_negative_prompts
    return Plan(resolved, prompts.prompts, _identity(resolved, prompts), without_effect)


def build_choice(group: str, choice: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """An object of the class that a group's choice stands for.

    Raises:
        UserError: as `evaluation.choices.build`, or it is of another kind.
    """
    built = build(choice, group)
    if not isinstance(built, kind):
        raise UserError(f"{group}._target_={choice['_target_']}: not a {kind.__name__}")
    return built


def build_mask(plan: Plan) -> Mask:
    """The mask of the run; one made of a file is built from its path, which the identity does not
    hold, and is read.

    Raises:
        UserError: the file cannot be read, or has changed since the run was planned.
    """
    if "sha256" not in plan.identity["mask"]:
        mask: Mask = build(plan.identity["mask"], "mask")
        return mask
    choice = plan.config["mask"]
    mask = build(choice, "mask").select(range(1), 1)
    if _content(choice) != plan.identity["mask"]:
        raise UserError(f"mask.image={choice['image']}: {CHANGED_MEANWHILE}")
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
    if (
        path.is_absolute()
        or str(path).startswith(".")
        or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
    ):
        raise UserError(f"model.path={path}: no such folder")
    return None


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


def _identity(config: Mapping[str, Any], prompts: PromptList) -> dict[str, Any]:
    mask, curve = (_content(config[group]) for group in ("mask", "curve"))
    if curve["_target_"] == LINEAR or not any((curve["concavity"], *prompts.concavities)):
        mask = {"_target_": NO_MASK}
    if mask["_target_"] == NO_MASK:
        curve = {"_target_": LINEAR}
        prompts = prompts.without_subjects
    reading = {name: config[name] for name in READING}
    if mask["_target_"] in UNREAD:
        level = config["text_level"] if mask["_target_"] == EXTERNAL_MASK else "mean"
        reading = {"attention_keys": "joint", "attention_text": "both", "text_level": level}
    scalars = ("num_inference_steps", "eta", "seed", "images_per_prompt", "height", "width")
    return {
        "recipe": RECIPE,
        "model": {**model_content(config["model"]), "dtype": _dtype(config)},
        "mask": mask,
        "curve": curve,
        "guidance": _guidance(config["guidance"]),
        "pipeline_arguments": pipeline_arguments(config["model"]) | pipeline_arguments(config),
        **{name: reading.get(name) for name in READING},
        "prompts": prompts.digest,
        **({"negative_prompts": prompts.negative_prompts} if prompts.negative_prompts else {}),
        **{key: config[key] for key in scalars},
        **({"noise": config["noise"]} if config["noise"] != Noise.shared.name else {}),
    }


def _guidance(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of it, with its class unless that is classifier-free guidance."""
    guidance = {
        key: value
        for key, value in _content(choice).items()
        if value not in (None, "", CLASSIFIER_FREE)
    }
    if choice["_target_"] == CLASSIFIER_FREE and guidance.get("guidance_scale") in (0, 1):
        guidance.pop("negative_prompt", None)
    return guidance


def _is_unguided(config: Mapping[str, Any]) -> bool:
    """Whether nothing leads away from a negative prompt; a distilled network's number says nothing
    of it."""
    guidance = config["guidance"]
    unguided = guidance["_target_"] == CLASSIFIER_FREE and guidance.get("guidance_scale") in (0, 1)
    return unguided and bool(config["model"].get("guided", True))


def _content(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice without its name, files by what is in them."""
    content = {"_target_": choice["_target_"], **settings(choice)}
    if path := content.pop("image", None):
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"mask.image={path}: no such file")
        content["sha256"] = sha256(file)[:16]
    return content


@cache
def _file_hash(file: Path, *status: int) -> str:
    return sha256(file)[:16]


def _hash(file: Path) -> str:
    """A hash of a large file, which is read again only where its size or a time of it is
    another."""
    status = file.stat()
    return _file_hash(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def model_content(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the identity says of a model, but for "auto" as its precision. Files that have not
    changed since they were last asked about are not read again."""
    content: dict[str, Any] = {
        key: value
        for key, value in settings(model).items()
        if key not in (*HOW, *ADVICE) and value not in (None, False)
    }
    where = local_folder(model)
    if where is None:
        content |= {"hub": model["path"], "revision": model["revision"]}
    else:
        content["weights"] = digest(where) if where.is_dir() else _hash(where)
    if model["_target_"] != LOADER:
        content["_target_"] = model["_target_"]
    if (configs := content.pop("config", None)) is not None:
        content["config"] = (
            digest(found) if (found := Path(configs).expanduser()).is_dir() else configs
        )
    if (lora := model.get("lora")) is not None:
        found = Path(lora).expanduser()
        content["lora"] = (
            digest(found) if found.is_dir() else _hash(found) if found.is_file() else lora
        )
    return content


def read_prompts(choice: Mapping[str, Any], subjects: Mapping[str, Any]) -> PromptList:
    """The prompts of a set, each with the subjects chosen for it.

    Raises:
        UserError: a bad prompt, a missing file.
    """
    prompt_set = build_choice("prompt_set", choice, PromptSet)  # type: ignore[type-abstract]
    try:
        prompts = prompt_set.load()
    except UserError as error:
        raise UserError(f"prompt_set: {error}") from error
    chosen = build_choice("subjects", subjects, SubjectChoice)
    try:
        return PromptList(tuple(map(chosen.choose, prompts)))
    except UserError as error:
        raise UserError(f"subjects: {error}") from error


def _embedded(name: str) -> str:
    package = find_spec("asyndm")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / "shapes" / "weights" / name)


OmegaConf.register_new_resolver("embedded", _embedded, replace=True)
