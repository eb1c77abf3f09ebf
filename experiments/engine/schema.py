"""The typed schema of ``conf/``: a wrong type or a mistyped key is refused while a sweep is
composed.

A YAML of a group begins with ``defaults: [schema/NAME]`` and says which class it stands for
(``_target_``). A choice with settings of its own needs a dataclass here only if it wants them
typed. No heavy import.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Offload(Enum):
    """What of a model stays on the GPU: all of it, the network that computes, or the layer that
    does."""

    none = "none"
    model = "model"
    sequential = "sequential"


class TextLevel(Enum):
    """Where joint text tokens stand: at the mean of the image's, or with its slowest or fastest."""

    mean = "mean"
    slowest = "slowest"
    fastest = "fastest"


class Keys(Enum):
    """Of joint attention, the share among all keys or among the text's alone."""

    joint = "joint"
    text = "text"


class TextParts(Enum):
    """Whose tokens of a prompt, where CLIP and T5 read it side by side."""

    both = "both"
    clip = "clip"
    t5 = "t5"


@dataclass
class Choice:
    """What every choice has: the class or function it stands for, and the name it is chosen by.
    Tables have that name of models and prompt sets; masks, curves and guidances have there the
    label that their class says of itself."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class Model(Choice):
    """`path`: hub id, folder, or one .safetensors file (`config`: where its configs are). `dtype`:
    float32, float16, bfloat16, or auto (half on a GPU). `device`: where it runs unless the
    top-level `device` says otherwise. `variant`: of the weight files. `lora`: a file or folder of
    LoRA weights. `offload`: less memory on a GPU, slower. `threads`: of a CPU; null: as many as
    torch takes. With one, pictures are the same to the bit on any number of cores and under every
    launcher. `scheduler`: what is changed of the scheduler's config, by the names of diffusers.

    What follows is what the model recommends: the defaults of the settings of the same name, where
    null is the pipeline's own, and arguments of its pipeline's call. `guided`: whether guidance
    evaluates the network twice; a distilled network is told the number instead."""

    _target_: str = "asyndm.models.load"
    path: str = MISSING
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    lora: str | None = None
    offload: Offload = Offload.none
    vae_slicing: bool = False
    vae_tiling: bool = False
    threads: int | None = None
    scheduler: Any = None

    num_inference_steps: int = 50
    guidance_scale: float | None = None
    eta: float | None = None
    pipeline_arguments: Any = None
    guided: bool = True


@dataclass
class Curve(Choice):
    concavity: float = 0.5


@dataclass
class SubjectMask(Choice):
    threshold: float = 1.0
    grow: int = 0


@dataclass
class ThingsMask(SubjectMask):
    threshold: float = 2.0
    grow: int = 1
    rehearsal_steps: int | None = None
    next_best: bool = True


@dataclass
class ExternalMask(Choice):
    """`image`: a file, or one for each of some subjects by name."""

    image: Any = MISSING
    grow: int = 0


@dataclass
class LayoutMask(Choice):
    boxes: Any = MISSING
    grow: int = 0


@dataclass
class PlantedMask(Choice):
    layout_of: str = "own"
    ahead: bool = False


@dataclass
class PromptSet(Choice):
    limit: int | None = None


@dataclass
class ShapesPromptSet(PromptSet):
    split: str = "test"
    kinds: list[str] | None = None


@dataclass
class AnimalActivityPromptSet(PromptSet):
    animals: list[str] = MISSING
    activities: dict[str, str] = MISSING


@dataclass
class Columns:
    """Names of a prompt file's columns; null: the usual ones; an empty name: there is none."""

    text: str | None = None
    id: str | None = None
    kind: str | None = None
    subjects: str | None = None
    concavities: str | None = None
    subject_counts: str | None = None
    phrases: str | None = None
    negative_prompt: str | None = None
    seed: str | None = None


@dataclass
class FilePromptSet(PromptSet):
    path: str = MISSING
    columns: Columns = field(default_factory=Columns)


@dataclass
class ReferencePromptSet(PromptSet):
    prompts_path: str = MISSING
    items_path: str = MISSING
    concavities: bool = False


@dataclass
class GenEvalPromptSet(PromptSet):
    metadata: str = MISSING


@dataclass
class WordList(Choice):
    words: list[str] = field(default_factory=list)
    path: str | None = None


@dataclass
class Guidance(Choice):
    """Those of other classes have further settings, for which `OPEN` leaves room: what a class does
    not have is refused where it is built."""

    _target_: str = "asyndm.guidance.ClassifierFree"
    guidance_scale: float | None = None
    negative_prompt: str | None = None


@dataclass
class Solver(Choice):
    _target_: str = "asyndm.solvers.DDIM"


@dataclass
class MultistepSolver(Solver):
    max_ratio: float | None = 2.0


@dataclass
class Tracker(Choice):
    pass


class Noise(Enum):
    """Whether every prompt is drawn from noise of its own, or all from the same."""

    own = "own"
    shared = "shared"


class WandbMode(Enum):
    """Written to files in the run's folder, sent at once, sent for one run by many processes, or
    none of it."""

    offline = "offline"
    online = "online"
    shared = "shared"
    disabled = "disabled"


@dataclass
class WandbTracker(Tracker):
    """What is null is what W&B's environment variables say."""

    project: str | None = None
    mode: WandbMode | None = None
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    images: int = 16


@dataclass
class Processes:
    """Of ``launcher=joblib``. `n_jobs`: how many processes; -1: one for each core."""

    _target_: str = "hydra_plugins.asyndm_processes.Processes"
    n_jobs: int = -1


@dataclass
class Config:
    """Everything one run is made of. The second block can change no pixel and no score, but for the
    device of a model whose dtype depends on it."""

    model: Any = MISSING
    curve: Any = MISSING
    mask: Any = MISSING
    prompt_set: Any = MISSING
    subjects: Any = MISSING
    guidance: Any = MISSING
    solver: Any = MISSING
    num_inference_steps: int = 20
    mask_threshold: float = 1.0
    eta: float | None = None
    seed: int = 0
    noise: Noise = Noise.own
    images_per_prompt: int = 1
    limit: int | None = None
    height: int | None = None
    width: int | None = None
    attention_factor: int | None = None
    attention_layers: list[int] | None = None
    attention_keys: Keys = Keys.joint
    attention_text: TextParts = TextParts.both
    text_level: TextLevel = TextLevel.mean
    pipeline_arguments: Any = None

    metric: dict[str, Any] = field(default_factory=dict)
    tracker: Any = MISSING
    device: str | None = None
    batch_size: int = 16
    batch_invariant: bool | None = None
    concurrent_scoring: bool | None = None
    pictures: int = 4
    shard: str | None = None
    jobs_per_gpu: int = 1
    objective: str | None = None
    output_dir: str = "runs"


SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"model": Model},
    "curve": {"curve": Curve},
    "mask": {
        "plain": Choice,
        "subjects": SubjectMask,
        "things": ThingsMask,
        "external": ExternalMask,
        "layout": LayoutMask,
        "planted": PlantedMask,
    },
    "prompt_set": {
        "shapes": ShapesPromptSet,
        "animal_activity": AnimalActivityPromptSet,
        "file": FilePromptSet,
        "reference": ReferencePromptSet,
        "geneval": GenEvalPromptSet,
    },
    "subjects": {"given": Choice, "words": WordList},
    "guidance": {"guidance": Guidance},
    "solver": {"solver": Solver, "multistep": MultistepSolver},
    "tracker": {"csv": Tracker, "wandb": WandbTracker},
}

OPEN = frozenset({"guidance"})
"""Groups whose choices may have settings beside those of their schema."""
