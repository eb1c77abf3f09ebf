"""LoRA weights beside a pipeline's own: every one of them must have its place there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from asyndm.checkpoints import HUB_ID, list_some
from asyndm.errors import UserError, join_lines, read_first_line
from asyndm.protocols import Pipeline

SUFFIX = ".safetensors"
USUAL = "pytorch_lora_weights.safetensors"
"""The file that is read of a folder with several."""
FACTOR = re.compile(
    r"lora_(?:embedding_)?[AB]\b|lora[._]linear_layer[._](?:down|up)\b|lora[._](?:down|up)\b"
)
"""In the name of a weight: one of the two factors of a LoRA, in any of the notations that diffusers
reads."""
LONG = 300
"""Characters of a message of diffusers or peft."""
OTHER = {"A": "B", "B": "A", "down": "up", "up": "down"}
"""From one of them to the other."""


def find_lora(lora: str | Path) -> Path | None:
    """The file of LoRA weights on this disk, known to be whole by its names; None for a hub id.

    Raises:
        UserError: there is none, there are several, it can hold code, it cannot be read, or it
            holds half a LoRA.
    """
    path = Path(str(lora)).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.glob(f"*{SUFFIX}") if file.is_file())
        if not files:
            raise UserError(
                f"lora {str(lora)!r} cannot be loaded: there is no {SUFFIX} file in that folder"
            )
        usual = [file for file in files if file.name == USUAL] or files
        if len(usual) > 1:
            raise UserError(f"lora {str(lora)!r} has {len(files)} {SUFFIX} files: give one of them")
        path = usual[0]
    elif not path.is_file():
        if isinstance(lora, str) and re.fullmatch(HUB_ID, lora) and path.suffix != SUFFIX:
            return None
        raise UserError(
            f"lora {str(lora)!r}: there is no such file; give a {SUFFIX} file, its folder, or "
            "ORG/NAME of the hub"
        )
    if path.suffix != SUFFIX:
        raise UserError(
            f"lora {str(lora)!r}: only {SUFFIX} files are read, as others can hold code"
        )
    try:
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
    except Exception as error:  # safetensors has several kinds, and the disk
        raise UserError(f"lora {str(lora)!r} cannot be loaded: {read_first_line(error)}") from error
    _check_names(lora, names)
    return path


def add_lora(pipe: Pipeline, lora: str | Path) -> None:
    """Adds LoRA weights to the networks of a pipeline.

    Raises:
        UserError: as `find_lora`; or its weights, or some of them, belong to no network of this
            pipeline.
    """
    file = find_lora(lora)
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"lora {str(lora)!r}: a {type(pipe).__name__} takes none; leave it out")
    source = str(lora if file is None else file.parent)
    where = {"weight_name": file and file.name, "use_safetensors": True}
    names: list[str] = []
    try:
        with _silence_libraries():
            network = getattr(pipe, "unet", None)
            shape = {} if network is None else {"unet_config": network.config}
            read = pipe.lora_state_dict(source, **where, **shape)
            names = list(read[0] if isinstance(read, tuple) else read)
            _check_names(lora, names)
            pipe.load_lora_weights(source, **where)
    except UserError:
        raise
    except Exception as error:  # of some ten kinds; without peft diffusers says so
        if lost := _find_lost(pipe, names):
            raise _explain_misfit(pipe, lora, lost, names) from error
        raise UserError(
            f"lora {str(lora)!r} cannot be loaded: {join_lines(error)[:LONG]}"
        ) from error
    added = [name for net in _list_networks(pipe).values() for name, _ in net.named_parameters()]
    given = [name for name in names if FACTOR.search(name)]
    # Those that fit nowhere diffusers leaves out.
    if len(given) != sum(bool(FACTOR.search(name)) for name in added):
        raise _explain_misfit(pipe, lora, _find_lost(pipe, names) or given, names)
    if not any(getattr(net, "peft_config", None) for net in _list_networks(pipe).values()):
        raise UserError(
            f"lora {str(lora)!r} has no LoRA weights of a {type(pipe).__name__}; leave it out"
        )


def _check_names(lora: str | Path, names: Iterable[str]) -> None:
    """Refuse weights that are half a LoRA, or of a kind of which diffusers would drop a part."""
    names = set(names)
    if scales := [name for name in names if name.endswith("dora_scale")]:
        raise UserError(
            f"lora {str(lora)!r} is a DoRA, whose scales ({list_some(scales)}) diffusers leaves "
            "out; give a LoRA"
        )
    if lone := [
        name for name in names if (other := _find_other_factor(name)) and other not in names
    ]:
        raise UserError(
            f"lora {str(lora)!r} has only one of the two factors of {list_some(lone)}; "
            "get a whole copy"
        )


def _find_other_factor(name: str) -> str | None:
    """The name of the weight without which this one is half a LoRA; None of any other weight."""
    found = FACTOR.search(name)
    if found is None or not name.endswith(".weight"):
        return None
    notation = re.sub(r"(A|B|down|up)$", lambda factor: OTHER[factor[0]], found[0])
    return name[: found.start()] + notation + name[found.end() :]


def _list_networks(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    return {part: net for part, net in pipe.components.items() if isinstance(net, torch.nn.Module)}


def _find_lost(pipe: Pipeline, names: Iterable[str]) -> list[str]:
    """The weights, by their names as diffusers writes them, of layers that no network of a pipeline
    has."""
    places = {
        f"{part}.{name}".replace(".text_model.", ".")
        for part, net in _list_networks(pipe).items()
        for name, _ in net.named_modules()
    }
    layers = (
        (name, re.split(r"\.processor\.|[._]lora[._]", name)[0])
        for name in names
        if FACTOR.search(name)
    )
    return [name for name, layer in layers if layer.replace(".text_model.", ".") not in places]


def _explain_misfit(
    pipe: Pipeline, lora: str | Path, lost: Sequence[str], names: Sequence[str]
) -> UserError:
    return UserError(
        f"lora {str(lora)!r}: {len(lost)} of its {len(names)} weights belong nowhere in this "
        f"{type(pipe).__name__} ({list_some(lost)}): it is for another model; leave it out"
    )


@contextmanager
def _silence_libraries() -> Iterator[None]:
    """Without what diffusers says of parts for which there are no weights, as in most LoRAs: here
    all is checked."""
    said = [(each, each.get_verbosity()) for each in (diffusers_logging, transformers_logging)]
    try:
        for each, _ in said:
            each.set_verbosity(logging.CRITICAL)
        yield
    finally:
        for each, level in said:
            each.set_verbosity(level)
