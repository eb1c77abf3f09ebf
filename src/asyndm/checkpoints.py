"""What a checkpoint may hold: parts of known libraries, no code of its own, and every weight of its networks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from asyndm.errors import UserError, first_line
from asyndm.networks import pipeline_names

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
"""Whose classes a checkpoint may name; any other module would be imported, wherever it lies."""
MULTIPLE = {
    "MultiControlNetModel": diffusers.ControlNetModel,
    "MultiControlNetUnionModel": diffusers.ControlNetUnionModel,
}
"""Classes that hold several networks, each in a folder of its own, and the class of these."""
TOLD = 3
"""Names of weights in a message."""


def read_index(source: str, revision: str | None = None) -> dict[str, Any]:
    """``model_index.json`` of a folder or hub id, refused if it names a class that is not served or not to be trusted.

    Raises:
        UserError: it cannot be read, names another pipeline, or a part from another library.
    """
    try:
        index: dict[str, Any] = DiffusionPipeline.load_config(source, revision=revision)
    except Exception as error:  # diffusers and the hub raise some ten kinds
        raise UserError(f"model {source!r} cannot be loaded: {first_line(error)}") from error
    name = index.get("_class_name")
    if name is None:
        raise UserError(f"model {source!r} cannot be read: its model_index.json names no class of pipeline")
    if name not in pipeline_names():
        raise UserError(
            f"model {source!r} is a {name}, which asyndm does not serve: see docs/models.md for those it does"
        )
    check_libraries(source, index)
    return index


def check_libraries(source: str, index: Mapping[str, Any]) -> None:
    """Refuse an index that names parts from other libraries than these, whose import would run their code.

    Raises:
        UserError: there is one, or a part that is named by anything but a library and a class.
    """
    settings = _settings(getattr(diffusers, index["_class_name"]))
    for part, named in index.items():
        if part.startswith("_") or part in settings or not _names_something(named):
            continue
        if not isinstance(named, (list, tuple)) or [type(each) for each in named] != [str, str]:
            raise UserError(
                f"model {source!r} names {named} as its {part}: that is no library and one of its classes"
            )
        library, name = named
        if library not in LIBRARIES and not inspect.ismodule(getattr(diffusers.pipelines, library, None)):
            raise UserError(
                f"model {source!r} names {library}.{name} as its {part}: only classes of "
                f"{' and '.join(LIBRARIES)} are loaded, no code of a checkpoint is run"
            )


def _settings(kind: Any) -> set[str]:
    """What a class of pipeline is built with beside its parts: numbers, switches, lists of layers."""
    return {
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in kind._optional_components
    }


def _names_something(value: object) -> bool:
    """Whether there is text in a list or mapping: then it can only be meant to name a class."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return isinstance(value, (list, tuple)) and any(isinstance(v, str) or _names_something(v) for v in value)


def left_out(index: Mapping[str, Any]) -> dict[str, None]:
    """Parts that a pipeline was saved without, such as T5; diffusers loads it only if it is told so."""
    return {
        part: None
        for part, named in index.items()
        if isinstance(named, (list, tuple)) and list(named) == [None, None]
    }


def fetch(
    source: str, index: Mapping[str, Any], revision: str | None, variant: str | None, given: Mapping[str, Any]
) -> Path:
    """The folder of a checkpoint on this disk, from the hub if need be, without the parts that are `given`.

    Raises:
        UserError: a config in it names code of its own.
    """
    folder = Path(source)
    if not folder.is_dir():
        kind = getattr(diffusers, index["_class_name"])
        folder = Path(
            kind.download(source, revision=revision, variant=variant, use_safetensors=True, **given)
        )
    check_code(source, folder)
    return folder


def check_code(source: str, folder: Path | None = None) -> None:
    """Refuse a checkpoint's folder, by default the source itself, with a config that names code of its own.

    Raises:
        UserError: there is one.
    """
    folder = folder or Path(source)
    for file in sorted(folder.glob("*/*config*.json")):
        if _has_key(json.loads(file.read_text(encoding="utf-8")), "auto_map"):
            raise UserError(
                f"model {source!r} names code of its own in {file.relative_to(folder)} (auto_map): "
                "no code of a checkpoint is run; without that entry the library's class is used"
            )


def _has_key(value: object, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(each, key) for each in value.values())
    return isinstance(value, list) and any(_has_key(each, key) for each in value)


def load_networks(
    source: str, folder: Path, index: Mapping[str, Any], dtype: torch.dtype, variant: str | None
) -> dict[str, torch.nn.Module]:
    """The networks of a pipeline by part, each with every weight it has and no other.

    Args:
        source: what the checkpoint is called in messages.
        folder: of the checkpoint.
        index: its ``model_index.json``; parts whose class is no network of diffusers or transformers are left alone.

    Raises:
        UserError: weights are missing, which would be random numbers, or some belong nowhere.
    """
    networks = {}
    for part, named in index.items():
        kind = _class_of(named)
        if kind is None:
            continue
        if kind.__name__ in MULTIPLE:
            places = [folder / part, *_numbered(folder, part)]
            nets = [_load_network(source, MULTIPLE[kind.__name__], place, dtype, variant) for place in places]
            networks[part] = kind(nets)
        else:
            networks[part] = _load_network(source, kind, folder / part, dtype, variant)
    return networks


def _class_of(named: Any) -> Any:
    """The class of a part that is a network of diffusers or transformers; None of any other."""
    if not isinstance(named, (list, tuple)) or named[0] not in LIBRARIES:
        return None
    kind = getattr(LIBRARIES[named[0]], named[1], None)
    return kind if isinstance(kind, type) and issubclass(kind, torch.nn.Module) else None


def _numbered(folder: Path, part: str) -> Iterator[Path]:
    """The folders of a second ControlNet and more: ``controlnet_1``, ``controlnet_2``, ..."""
    places = (folder / f"{part}_{i}" for i in count(1))
    return takewhile(Path.is_dir, places)


def _load_network(
    source: str, kind: Any, folder: Path, dtype: torch.dtype, variant: str | None
) -> torch.nn.Module:
    has_variant = variant is not None and any(folder.glob(f"*.{variant}*.safetensors"))
    only = {"variant": variant} if has_variant else {}
    network: torch.nn.Module
    network, report = kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **only
    )
    if missing := report["missing_keys"]:
        raise UserError(
            f"model {source!r}: {folder.name} has no weights for {_some(missing)} of its {kind.__name__}, "
            "which would be random numbers: get a whole copy, saved for these versions of diffusers and transformers"
        )
    if unexpected := [key for key in report["unexpected_keys"] if not _is_of_more(network, key)]:
        raise UserError(
            f"model {source!r}: {folder.name} has weights that its {kind.__name__} does not: {_some(unexpected)}; "
            f"{folder.name}/config.json is of another network, or of other versions of diffusers and transformers"
        )
    return network


def _is_of_more(network: Any, key: str) -> bool:
    """Whether a weight is of what a checkpoint of a larger class has around this network, such as a head for words."""
    saved = getattr(network.config, "architectures", None) or [type(network).__name__]
    if type(network).__name__ in saved:
        return False
    below = key.removeprefix(f"{network.base_model_prefix}.").split(".")[0]
    return below not in dict(network.named_children())


def _some(keys: Iterable[str]) -> str:
    """The first names of weights, and how many more there are."""
    names = sorted(keys)
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def check_filled(path: Path, pipe: Any) -> None:
    """Refuse a pipeline from a single file that lacks weights; of what more it holds nothing can be known.

    Raises:
        UserError: a weight is still without numbers.
    """
    for part, network in pipe.components.items():
        weights = network.named_parameters() if isinstance(network, torch.nn.Module) else ()
        if missing := [name for name, weight in weights if weight.is_meta]:
            raise UserError(
                f"model file {str(path)!r}: there are no weights for {_some(missing)} of {part}; get a whole copy"
            )
