"""What a checkpoint may hold: parts of known libraries, no code of its own, and every weight of its
networks."""

from __future__ import annotations

import inspect
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from asyndm.errors import UserError, read_first_line
from asyndm.networks import list_pipelines
from asyndm.protocols import Network, Pipeline

INDEX = "model_index.json"
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
"""Whose classes a checkpoint may name; any other module would be imported, wherever it lies."""
MULTIPLE = {
    "MultiControlNetModel": diffusers.ControlNetModel,
    "MultiControlNetUnionModel": diffusers.ControlNetUnionModel,
}
"""Classes that hold several networks, each in a folder of its own, and the class of these."""
DENOISERS = ("transformer", "unet")
"""Parts without which nothing can be sampled."""
DEPTHS = ("*", "*/*", "*/*/*")
"""Where files of a pipeline are, and of one that is part of another."""
JSON_BYTES = 64 * 2**20
"""More than any config or index has; a tokenizer's vocabulary is not read here."""
TOLD, LONG = 3, 100
"""Names of weights in a message, and characters of anything that a file names."""


def read_index(source: str, revision: str | None = None) -> dict[str, Any]:
    """``model_index.json`` of a folder or hub id, refused if it names a class that is not served or
    not to be trusted.

    Raises:
        UserError: it cannot be read, names another pipeline, a part from another library, or no
            denoising network; the folder holds a pipe, a device, or code of its own.
    """
    folder = Path(source)
    if folder.is_dir():
        check_files(source, folder)
        index = read_json(source, folder, folder / INDEX)
    else:
        try:
            index = DiffusionPipeline.load_config(source, revision=revision)
        except Exception as error:  # diffusers and the hub raise some ten kinds
            raise UserError(
                f"model {source!r} cannot be loaded: {read_first_line(error)}"
            ) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name is None:
        raise UserError(f"model {source!r} cannot be read: its {INDEX} names no class of pipeline")
    if name not in list_pipelines():
        raise UserError(
            f"model {source!r} is a {_abbreviate(name)}, which asyndm does not serve: see "
            "docs/models.md for those it does"
        )
    check_libraries(source, index)
    if folder.is_dir():
        check_code(source, folder)
    parts = [
        part
        for part in DENOISERS
        if part in inspect.signature(getattr(diffusers, name).__init__).parameters
    ]
    if not any(_is_named(index.get(part)) for part in parts):
        raise UserError(
            f"model {source!r} has no {' or '.join(parts)}: {INDEX} names none, and without it "
            "nothing can be sampled; get a whole copy"
        )
    checked: dict[str, Any] = index
    return checked


def check_files(source: str, folder: Path) -> None:
    """Refuse a folder with a pipe or a device in it: whoever opens one may wait for ever.

    Raises:
        UserError: there is one.
    """
    for file in (file for depth in DEPTHS for file in sorted(folder.glob(depth))):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise UserError(
                f"model {source!r}: {file.relative_to(folder)} is no file but a pipe or a device; "
                "remove it"
            )


def read_json(source: str, folder: Path, file: Path) -> Any:
    """What a JSON file of a checkpoint's folder holds.

    Raises:
        UserError: it is too large, nested too deeply, or no JSON.
    """
    try:
        if file.stat().st_size > JSON_BYTES:
            raise ValueError(f"larger than {JSON_BYTES >> 20} MB")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (
            "nested too deeply" if isinstance(error, RecursionError) else read_first_line(error)
        )
        raise UserError(
            f"model {source!r} cannot be read: {file.relative_to(folder)} is no such JSON as it "
            f"should be ({reason}); get a whole copy"
        ) from error


def check_libraries(source: str, index: Mapping[str, Any]) -> None:
    """Refuse an index that names parts from other libraries than these, whose import would run
    their code.

    Raises:
        UserError: there is one, or a part that is named by anything but a library and a class.
    """
    kind = getattr(diffusers, index["_class_name"])
    settings, taken = _list_settings(kind), inspect.signature(kind.__init__).parameters
    for part, named in index.items():
        if part.startswith("_") or part in settings or _is_omitted(named):
            continue
        if part not in taken and not _names_something(named):
            continue
        if not _is_named(named):
            raise UserError(
                f"model {source!r} names {_abbreviate(named)} as its {_abbreviate(part)}: that is "
                "no library and one of its classes"
            )
        library, name = named
        if library not in LIBRARIES and not inspect.ismodule(
            getattr(diffusers.pipelines, library, None)
        ):
            raise UserError(
                f"model {source!r} names {_abbreviate(f'{library}.{name}')} as its "
                f"{_abbreviate(part)}: only classes of {' and '.join(LIBRARIES)} are loaded, no "
                "code of a checkpoint is run"
            )


def _list_settings(kind: type[DiffusionPipeline]) -> set[str]:
    """What a class of pipeline is built with beside its parts: numbers, switches, lists of
    layers."""
    return {
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
        and name not in kind._optional_components
    }


def _is_named(named: object) -> bool:
    """Whether this is a library and one of its classes."""
    return isinstance(named, (list, tuple)) and [type(each) for each in named] == [str, str]


def _is_omitted(named: object) -> bool:
    return isinstance(named, (list, tuple)) and list(named) == [None, None]


def _names_something(value: object) -> bool:
    """Whether there is text in a list or mapping: then it can only be meant to name a class."""
    return not isinstance(value, str) and any(
        isinstance(each, str) or (isinstance(each, dict) and each) for each in _walk(value)
    )


def _walk(value: object) -> Iterator[object]:
    """A value of a JSON file and all values in it, however deep."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, (list, tuple, dict)):
            waiting += each.values() if isinstance(each, dict) else each


def _abbreviate(named: object) -> str:
    """What a file names, on one line and not too long."""
    return " ".join((named if isinstance(named, str) else reprlib.repr(named)).split())[:LONG]


def find_omitted(index: Mapping[str, Any]) -> dict[str, None]:
    """Parts that a pipeline was saved without, such as T5; diffusers loads it only if it is told
    so."""
    return {part: None for part, named in index.items() if _is_omitted(named)}


def fetch(
    source: str,
    index: Mapping[str, Any],
    revision: str | None,
    variant: str | None,
    given: Mapping[str, Any],
) -> Path:
    """The folder of a checkpoint on this disk, from the hub if need be, without the parts that are
    `given`.

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


def check_code(source: str, folder: Path) -> None:
    """Refuse a checkpoint's folder with a config that names code of its own, or with another index
    in it that does.

    Raises:
        UserError: there is one.
    """
    for file in (
        file for depth in DEPTHS[1:] for file in sorted(folder.glob(f"{depth}config*.json"))
    ):
        held = read_json(source, folder, file) if file.is_file() else None
        if any(isinstance(each, dict) and "auto_map" in each for each in _walk(held)):
            raise UserError(
                f"model {source!r} names code of its own in {file.relative_to(folder)} (auto_map): "
                "no code of a checkpoint is run; without that entry the library's class is used"
            )
    for file in (file for depth in DEPTHS[:2] for file in sorted(folder.glob(f"{depth}/{INDEX}"))):
        index = read_json(source, folder, file)
        name = index.get("_class_name") if isinstance(index, dict) else None
        kind = getattr(diffusers, name, None) if isinstance(name, str) else None
        if not isinstance(kind, type) or not issubclass(kind, DiffusionPipeline):
            raise UserError(
                f"model {source!r} names {_abbreviate(name)} in {file.relative_to(folder)}: that "
                "is no pipeline of diffusers"
            )
        check_libraries(f"{source}/{file.relative_to(folder).parent}", index)


def load_networks(
    source: str, folder: Path, index: Mapping[str, Any], dtype: torch.dtype, variant: str | None
) -> dict[str, torch.nn.Module]:
    """The networks of a pipeline by part, each with every weight it has and no other.

    Args:
        source: what the checkpoint is called in messages.
        folder: of the checkpoint.
        index: its ``model_index.json``; parts whose class is no network of diffusers or
            transformers are left alone.

    Raises:
        UserError: weights are missing, which would be random numbers, or some belong nowhere.
    """
    networks = {}
    for part, named in index.items():
        kind = _find_class(named)
        if kind is None:
            continue
        if kind.__name__ in MULTIPLE:
            places = [folder / part, *_find_numbered(folder, part)]
            nets = [
                _load_network(source, MULTIPLE[kind.__name__], place, dtype, variant)
                for place in places
            ]
            networks[part] = kind(nets)
        else:
            networks[part] = _load_network(source, kind, folder / part, dtype, variant)
    return networks


def _find_class(named: Any) -> Any:
    """The class of a part that is a network of diffusers or transformers; None of any other."""
    if not _is_named(named) or named[0] not in LIBRARIES:
        return None
    kind = getattr(LIBRARIES[named[0]], named[1], None)
    return kind if isinstance(kind, type) and issubclass(kind, torch.nn.Module) else None


def _find_numbered(folder: Path, part: str) -> Iterator[Path]:
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
            f"model {source!r}: {folder.name} has no weights for {list_some(missing)} of its "
            f"{kind.__name__}, which would be random numbers: get a whole copy, saved for these "
            "versions of diffusers and transformers"
        )
    if unexpected := [key for key in report["unexpected_keys"] if not _is_of_more(network, key)]:
        raise UserError(
            f"model {source!r}: {folder.name} has weights that its {kind.__name__} does not: "
            f"{list_some(unexpected)}; {folder.name}/config.json is of another network, or of "
            "other versions of diffusers and transformers"
        )
    return network


def _is_of_more(network: Network, key: str) -> bool:
    """Whether a weight is of what a checkpoint of a larger class has around this network, such as a
    head for words."""
    saved = getattr(network.config, "architectures", None) or [type(network).__name__]
    if type(network).__name__ in saved:
        return False
    below = key.removeprefix(f"{network.base_model_prefix}.").split(".")[0]
    return below not in dict(network.named_children())


def list_some(keys: Iterable[str]) -> str:
    """The first names of weights, and how many more there are."""
    names = sorted(keys)
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def check_filled(path: Path, pipe: Pipeline) -> None:
    """Refuse a pipeline from a single file that lacks weights; of what more it holds nothing can be
    known.

    Raises:
        UserError: a weight is still without numbers.
    """
    for part, network in pipe.components.items():
        weights = network.named_parameters() if isinstance(network, torch.nn.Module) else ()
        if missing := [name for name, weight in weights if weight.is_meta]:
            raise UserError(
                f"model file {str(path)!r}: there are no weights for {list_some(missing)} of "
                f"{part}; get a whole copy"
            )
