"""What tells a run from others in tables and figures: its method, its settings and its prompts'
subjects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from sys import intern
from types import ModuleType
from typing import Any, Self, TypeVar

from asyndm import curves, guidance, masks, solvers
from asyndm.choices import to_snake_case
from asyndm.curves import Curve
from asyndm.errors import UserError, read_first_line
from asyndm.guidance import ClassifierFree, Cost, Guidance
from asyndm.masks import Mask
from asyndm.solvers import DDIM, Solver
from asyndm.subjects import Subject
from evaluation.pipeline_labels import name_pipeline, name_weights
from evaluation.runs.files import REMEDY, read_json
from evaluation.runs.folder import PROMPTS_FILE, Run
from evaluation.runs.records import MASK_FACTS, RUN_FILE

Choice = TypeVar("Choice")


def _collect_classes(home: ModuleType, base: type[Choice]) -> dict[str, type[Choice]]:
    """What the library has of a sort, by the classes' names, in the order it defines them."""
    return {
        name: found
        for name, found in vars(home).items()
        if isinstance(found, type) and issubclass(found, base) and found is not base
    }


MASKS = _collect_classes(masks, Mask)  # type: ignore[type-abstract]
CURVES = _collect_classes(curves, Curve)  # type: ignore[type-abstract]
METHODS = tuple(mask.label for mask in MASKS.values())
"""The library's methods, in the order in which tables have them."""
REFERENCE = masks.NoMask.label
"""What methods are compared with unless something else is asked for. A mask that does not bend is
known as this one, whatever its class."""
GUIDANCES = _collect_classes(guidance, Guidance)
SOLVERS = _collect_classes(solvers, Solver)  # type: ignore[type-abstract]
BACKWARD = 2
"""What a row of the network backward counts in rows forward: a gradient by its input takes about as
long as two."""
GIVEN = "given"
"""The choice of subjects that are the prompts' own, which goes without saying."""


class MethodLabel(str):
    """What a run's method is called, what else its mask says of itself, and what it costs.

    Attributes:
        bends: whether it puts a pixel on the curve at all.
        uniform: whether all pixels are always at the same noise level.
        follows_attention: whether it finds the subjects at every step.
        rehearses: whether a whole synchronous run comes first.
        forecast: rows of the network for each image, rehearsals included, by the record, or else
            by what is set of classifier-free guidance; None where neither tells.
    """

    bends: bool
    uniform: bool
    follows_attention: bool
    rehearses: bool
    forecast: Cost | None

    def __new__(
        cls, text: str, facts: Mapping[str, Any] | None = None, forecast: Cost | None = None
    ) -> Self:
        label = super().__new__(cls, text)
        for name in MASK_FACTS:
            setattr(label, name, (facts or {}).get(name, getattr(Mask, name)))
        label.forecast = forecast
        return label

    @property
    def rank(self) -> tuple[bool, int]:
        """Where it stands among others: what does not bend first, then as the library has them,
        others last."""
        # By label: an order of the library's own methods, of which no fact of a mask tells.
        return self.bends, METHODS.index(self) if self in METHODS else len(METHODS)


class GuidanceLabel(str):
    """What a guidance is called, and what of it figures are drawn by.

    Attributes:
        scale: None where it is the pipeline's own.
        rest: all else that is set of it, as text: "not 'blurry'".
    """

    scale: float | None
    rest: str

    def __new__(cls, text: str, scale: float | None = None, rest: str = "") -> Self:
        label = super().__new__(cls, text)
        label.scale, label.rest = scale, rest
        return label


USUAL_READING: dict[str, Any] = {
    "attention_factor": None,
    "attention_layers": None,
    "attention_keys": "joint",
    "attention_text": "both",
    "text_level": "mean",
}
"""What masks are made of unless something else is asked for, which goes without saying: the
defaults of `asyndm.sample`, whose module imports torch."""


def read_labels(run: Run) -> dict[str, Any]:
    """What tells a run from others in a table.

    Raises:
        UserError: the run's record lacks some of it.
    """
    try:
        of = _collect_labels(run)
        for name, value in of.items():
            _check_label(name, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = (
            f"no {error}"
            if isinstance(error, KeyError)
            else read_first_line(error, type(error).__name__)
        )
        raise UserError(
            f"{run.folder / RUN_FILE}: not the record of a run ({why}); {REMEDY}"
        ) from error
    return of


def read_all_labels(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run as `read_labels`. A guidance or solver whose label is that of another with other
    settings, which is so where a class of one's own does not tell them, has these added.

    Raises:
        UserError: as `read_labels`.
    """
    labels = [read_labels(run) for run in runs]
    for group in ("guidance", "solver"):
        known: dict[str, list[dict[str, Any]]] = {}
        for run, of in zip(runs, labels, strict=True):
            settings, alike = run.identity.get(group) or {}, known.setdefault(of[group], [])
            if settings not in alike:
                alike.append(settings)
        for run, of in zip(runs, labels, strict=True):
            settings, alike = run.identity.get(group) or {}, known[str(of[group])]
            names = sorted({name for each in alike for name in each})
            told = [
                f"{name}={settings.get(name)}"
                for name in names
                if any(each.get(name) != alike[0].get(name) for each in alike)
            ]
            of[group] = _add_words(of[group], told)
    return labels


def _add_words(label: Any, words: Sequence[str]) -> Any:
    """A label of the same kind, with more in it."""
    if not words:
        return label
    if not isinstance(label, GuidanceLabel):
        return " ".join([label, *words])
    return GuidanceLabel(
        " ".join([label, *words]), label.scale, " ".join(filter(None, (label.rest, *words)))
    )


def _check_label(name: str, value: Any) -> None:
    """Refuses what is no text, number or nothing.

    Raises:
        ValueError: it is none of these.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str | int | float | None) for part in parts):
        raise ValueError(f"{name} is neither text nor number")
    if not all(math.isfinite(part) for part in parts if isinstance(part, float)):
        raise ValueError(f"{name} is no finite number")
    if name == "steps" and not isinstance(value, int | float):
        raise ValueError("steps is no number")


def _collect_labels(run: Run) -> dict[str, Any]:
    identity, config = run.identity, run.record["config"]
    mask, curve, model = identity["mask"], identity["curve"], identity["model"]
    method = _read_method(run)
    rest = {key: value for key, value in mask.items() if key not in ("_target_", "threshold")}
    chosen = (config.get("subjects") or {}).get("name", GIVEN)
    if chosen != GIVEN and method.bends:
        rest["subjects"] = chosen
    for name, default in USUAL_READING.items():
        if identity.get(name, default) != default:
            rest[name] = identity[name]
    return {
        "model": (config["model"]["name"], name_weights(identity), model["dtype"]),
        "prompt_set": _name_prompt_set(config["prompt_set"]),
        "method": method,
        "curve": _name_curve(run) if method.bends else "",
        "concavity": curve.get("concavity", ""),
        "threshold": mask.get("threshold", ""),
        "settings": " ".join(f"{key}={value}" for key, value in sorted(rest.items())),
        "steps": identity["num_inference_steps"],
        "eta": identity["eta"],
        "guidance": _read_guidance(run),
        "solver": _name_solver(run),
        "pipeline": name_pipeline(identity, config),
        "height": identity["height"],
        "width": identity["width"],
        "noise": identity.get("noise", "shared"),
        "recipe": identity["recipe"],
    }


def _name_prompt_set(choice: Mapping[str, Any]) -> str:
    """The set with the part of it that was drawn: "shapes/test", "file/mine"."""
    path = choice.get("path") or choice.get("prompts_path")
    part = choice.get("split") or (Path(path).stem if path else "")
    return f"{choice['name']}/{part}" if part else str(choice["name"])


def read_subjects(run: Run) -> Mapping[tuple[str, str], str]:
    """Prompt -> its subjects and their concavities, as text; one that does not bend has none.

    Raises:
        UserError: the run's prompts cannot be read.
    """
    if not _read_method(run).bends or not (run.folder / PROMPTS_FILE).exists():
        return {}
    path = run.folder / PROMPTS_FILE
    written = path.stat()
    return _parse_subjects(path, written.st_mtime_ns, written.st_size)


def read_prompt_ids(run: Run) -> list[str]:
    """Its prompts in the order of their set.

    Raises:
        UserError: the run's prompts cannot be read.
    """
    path = run.folder / PROMPTS_FILE
    try:
        return [entry["prompt_id"] for entry in read_json(path)]
    except (OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the prompts of a run ({read_first_line(error)}); {REMEDY}"
        ) from error


@lru_cache(maxsize=64)
def _parse_subjects(path: Path, *written: int) -> Mapping[tuple[str, str], str]:
    """Of a file as last written. Whether the subjects are in their texts was seen when it was."""
    entries = read_json(path)
    try:
        return {
            (intern(entry["prompt_id"]), intern(entry["text"])): intern(
                json.dumps([_tell(Subject(**subject)) for subject in entry["subjects"]])
            )
            for entry in entries
        }
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path}: not the prompts of a run ({read_first_line(error)}); {REMEDY}"
        ) from error


def _tell(subject: Subject) -> dict[str, Any]:
    """A subject as digests have it: without a count where none is stated, as they always were."""
    return {k: value for k, value in vars(subject).items() if k != "count" or value is not None}


def count_evaluations(run: Run) -> tuple[float, float, int] | None:
    """Rows that the network was called with, those it was differentiated for, and for how many
    images; None: the record does not tell."""
    told = run.record.get("evaluations") or {}
    return (told["rows"], told.get("backward", 0), told["images"]) if told.get("images") else None


def weigh_rows(forward: float, backward: float) -> float:
    """Rows of the network in rows forward."""
    return forward + BACKWARD * backward


def _find_told(run: Run, group: str) -> Mapping[str, Any] | None:
    """What the record says of a choice; None: it was written before records did."""
    told: Mapping[str, Any] | None = (run.record.get("choices") or {}).get(group)
    return told


def _find_own(
    target: str, home: ModuleType, classes: Mapping[str, type[Choice]]
) -> type[Choice] | None:
    """The library's class of this path, be it that of its own module or of a package which has it.
    To import a stranger's module would be to run it, so no other is looked up."""
    module, _, name = target.rpartition(".")
    found = classes.get(name)
    is_own = found is not None and module in (home.__name__, found.__module__)
    return found if is_own else None


def _name_class(target: str) -> str:
    """A class's own name, by which one that says nothing of itself is called."""
    return target.rpartition(".")[2]


def _read_method(run: Run) -> MethodLabel:
    if told := _find_told(run, "mask"):
        return MethodLabel(told["label"], told, _forecast_rows(run, told))
    target = run.identity["mask"]["_target_"]
    mask = _find_own(target, masks, MASKS)
    if mask is None:
        return MethodLabel(_name_class(target), None, _forecast_rows(run, {}))
    facts = {name: getattr(mask, name) for name in MASK_FACTS}
    return MethodLabel(mask.label, facts, _forecast_rows(run, facts))


def _name_curve(run: Run) -> str:
    if told := _find_told(run, "curve"):
        return str(told["label"])
    target = run.identity["curve"]["_target_"]
    curve = _find_own(target, curves, CURVES)
    return to_snake_case(_name_class(target)) if curve is None else curve.label


def _name_solver(run: Run) -> str:
    if told := _find_told(run, "solver"):
        return str(told["label"])
    choice = run.identity.get("solver")
    if choice is None:
        return DDIM.name
    solver = _find_own(choice["_target_"], solvers, SOLVERS)
    return to_snake_case(_name_class(choice["_target_"])) if solver is None else solver.name


def _read_guidance(run: Run) -> GuidanceLabel:
    choice, told = run.identity["guidance"], _find_told(run, "guidance")
    scale, negative = choice.get("guidance_scale"), choice.get("negative_prompt")
    own_class = _find_own(target := choice.get("_target_", ""), guidance, GUIDANCES)
    name = _name_class(target) if own_class is None else own_class.name
    label = told["label"] if told else f"{name} {ClassifierFree(scale, negative).label}".strip()
    settings = [
        f"{key}={value}"
        for key, value in sorted(choice.items())
        if key not in ("_target_", "guidance_scale", "negative_prompt")
    ]
    rest = [name, ClassifierFree(None, negative).label, *settings]
    if told:
        rest = [_drop_scale(str(label), scale)]
    own = run.identity.get("negative_prompts")  # a digest of those that prompts have of their own
    digest = f"negative_prompts={own}" if own else ""
    return GuidanceLabel(
        " ".join(filter(None, (label, digest))),
        None if scale is None else float(scale),
        " ".join(filter(None, (*rest, digest))),
    )


def _drop_scale(label: str, scale: float | None) -> str:
    """A guidance's label without its scale: of "seg 3 5 not 'blurry'" "seg 3 not 'blurry'"."""
    if scale is None:
        return label
    found = re.match(rf"(|.*? ){re.escape(f'{scale:g}')}($| not '.*)", label)
    return f"{found[1].rstrip()}{found[2]}".strip() if found else label


def _forecast_rows(run: Run, facts: Mapping[str, Any]) -> Cost | None:
    """Rows of the network for each image. Of a record that does not tell them those of
    classifier-free guidance, twice under a mask that rehearses; None where the guidance is another,
    or where prompts can differ in them."""
    told = _find_told(run, "guidance") or {}
    if told.get("forward"):
        return Cost(
            float(told["forward"]), float(told.get("backward", 0)), bool(told.get("exact", True))
        )
    identity = run.identity
    choice: Mapping[str, Any] = identity["guidance"]
    if "_target_" in choice and (
        _find_own(choice["_target_"], guidance, GUIDANCES) is not ClassifierFree
    ):
        return None
    usual = ClassifierFree(choice.get("guidance_scale"), choice.get("negative_prompt"))
    guided = bool(run.record["config"]["model"].get("guided", True))
    arguments: Mapping[str, Any] = identity.get("pipeline_arguments", {})
    given = [arguments]
    if identity.get("negative_prompts"):  # which some prompts have of their own, and others may not
        given.append({**arguments, "negative_prompt": ""})
    counts = {usual.evaluations(guided, each) for each in given}
    if len(counts) > 1:
        return None
    times = 2 if facts.get("rehearses") else 1
    return Cost(float(identity["num_inference_steps"] * counts.pop() * times))
