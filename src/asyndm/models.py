"""Loading a pipeline that can be sampled from: a diffusers folder, the hub, or a single file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import snapshot_download

from asyndm.checkpoints import (
    HUB_ID,
    check_code,
    check_filled,
    fetch,
    find_omitted,
    load_networks,
    read_index,
)
from asyndm.errors import UserError, read_first_line
from asyndm.inputs import check_pipeline
from asyndm.loras import add_lora
from asyndm.schedulers import change_scheduler

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda")
OFFLOADS = ("none", "model", "sequential")
SINGLE_FILE = ".safetensors"
CONFIGS = ["*.json", "*.txt", "*.model"]
"""Of a checkpoint on the hub, what is not its weights: configs and tokenizers."""


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    variant: str | None = None,
    config: str | Path | None = None,
    lora: str | Path | None = None,
    offload: str = "none",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    scheduler: Mapping[str, Any] | None = None,
) -> Any:
    """A pipeline of a served class, with its own scheduler, on its device, in its dtype, without
    safety checker.

    Only safetensors are read, no code of the checkpoint is run, and no weight is left to chance.

    Args:
        path: a diffusers folder, a hub id such as "stabilityai/stable-diffusion-3.5-medium", or one
            ``.safetensors`` file of a model whose format diffusers knows.
        dtype: float32, float16, bfloat16, or auto: float16 on a GPU, float32 on the CPU.
        device: cpu, cuda (cuda:1, ...), or auto: the GPU if there is one.
        revision: branch, tag or commit on the hub.
        variant: of the weight files, such as "fp16".
        config: of a single file, the diffusers folder or hub id that has the configs and tokenizers
            of its model; None: the hub id that diffusers knows of it.
        lora: a file or folder of LoRA weights, or a hub id of them.
        offload: "model" keeps on the GPU the one network that computes, "sequential" one layer;
            needs a GPU.
        vae_slicing, vae_tiling: decode picture by picture, or tile by tile: less memory.
        scheduler: settings that its scheduler gets, as of ``schedulers.change_scheduler``.

    Raises:
        UserError: unknown dtype or device, GPU absent, half precision on the CPU, no such folder,
            hub unreachable, a class that is not served, weights that are no safetensors, weights
            that are missing or belong nowhere, also of the LoRA; as ``change_scheduler``.
    """
    where = choose_device(device)
    number = choose_dtype(dtype, where)
    check_offload(offload, where)
    pipe = (
        _load_file(Path(path), number, config)
        if is_file(path)
        else _load_folder(path, number, revision, variant)
    )
    check_pipeline(pipe)
    if scheduler is not None:
        change_scheduler(pipe, scheduler)
    if lora is not None:
        add_lora(pipe, lora)
    for asked, method in ((vae_slicing, "enable_slicing"), (vae_tiling, "enable_tiling")):
        if asked:
            getattr(pipe.vae, method)()
    if offload == "none":
        return pipe.to(where)
    getattr(pipe, f"enable_{offload}_cpu_offload")(device=where)
    return pipe


def _load_folder(
    path: str | Path, dtype: torch.dtype, revision: str | None, variant: str | None
) -> Any:
    source = _find_source(path)
    index = read_index(source, revision)
    given: dict[str, Any] = {**find_omitted(index)}
    if "safety_checker" in index:
        given |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        folder = fetch(source, index, revision, variant, given)
        _check_variant(source, folder, variant)
        wanted = {part: named for part, named in index.items() if part not in given}
        given |= load_networks(source, folder, wanted, dtype, variant)
        return getattr(diffusers, index["_class_name"]).from_pretrained(
            str(folder), dtype=dtype, variant=variant, use_safetensors=True, **given
        )
    except UserError:
        raise
    # diffusers, transformers and the hub raise some twenty kinds for a bad checkpoint
    except Exception as error:
        raise UserError(f"model {source!r} cannot be loaded: {read_first_line(error)}") from error


def _load_file(path: Path, dtype: torch.dtype, config: str | Path | None) -> Any:
    path = path.expanduser()
    source, index = _find_index(path, config)
    kind = getattr(diffusers, index["_class_name"])
    if not hasattr(kind, "from_single_file"):
        raise UserError(
            f"model file {str(path)!r}: diffusers reads no single file of a {kind.__name__}: give "
            "a diffusers folder"
        )
    try:
        pipe = kind.from_single_file(
            str(path), config=source, torch_dtype=dtype, local_files_only=None
        )
    except NotImplementedError as error:  # of torch, which was to move a weight without numbers
        raise UserError(
            f"model file {str(path)!r} lacks weights of its model: get a whole copy"
        ) from error
    except Exception as error:  # likewise
        raise UserError(
            f"model file {str(path)!r} cannot be loaded: {read_first_line(error)}"
        ) from error
    check_filled(path, pipe)
    return pipe


def _find_index(path: Path, config: str | Path | None) -> tuple[str, dict[str, Any]]:
    """The folder of the configs of a single file's model, from the hub if need be, and the index
    that is there."""
    if path.suffix != SINGLE_FILE:
        raise UserError(
            f"model file {str(path)!r}: only {SINGLE_FILE} files are read, as others can hold code"
        )
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    try:
        if config is None:
            known = fetch_diffusers_config(load_single_file_checkpoint(str(path)))
            config = str(known["pretrained_model_name_or_path"])
        source = _find_source(config)
        index = read_index(source)
        folder = Path(source)
        if not folder.is_dir():
            folder = Path(snapshot_download(source, allow_patterns=CONFIGS))
            check_code(source, folder)
        return str(folder), index
    except UserError as error:
        raise UserError(
            f"model file {str(path)!r}: {error}; config=FOLDER says where its configs are"
        ) from error
    except Exception as error:  # likewise
        raise UserError(
            f"model file {str(path)!r} cannot be loaded: {read_first_line(error)}"
        ) from error


def check_offload(offload: str, device: torch.device) -> None:
    """Refuse an unknown way to offload weights, and any without a GPU."""
    if offload not in OFFLOADS:
        raise UserError(f"offload must be one of {', '.join(OFFLOADS)}, got {offload!r}")
    if offload != "none" and device.type == "cpu":
        raise UserError(
            f"offload={offload} moves weights between a GPU and the CPU: "
            "choose offload=none on a CPU"
        )


def choose_device(device: str | torch.device) -> torch.device:
    """The device asked for, or with "auto" the GPU if there is one."""
    device = str(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={device}: this machine has {torch.cuda.device_count()} GPU(s); use device=cpu "
            "or auto"
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype asked for, or with "auto" float16 on a GPU and float32 on the CPU."""
    dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    if device.type == "cpu" and dtype != "float32":
        raise UserError(f"dtype={dtype} needs a GPU: on the CPU use dtype=float32 or auto")
    return DTYPES[dtype]


def is_file(path: str | Path) -> bool:
    """Whether a model is one file rather than a folder or a hub id."""
    return Path(str(path)).expanduser().is_file()


def _find_source(path: str | Path) -> str:
    """A folder that exists, or something that can be a hub id."""
    text = str(path)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(
                f"model folder {text!r} has no model_index.json: give a diffusers pipeline folder"
            )
        return str(folder)
    if text.endswith(SINGLE_FILE):
        raise UserError(f"model: there is no file {text!r}")
    if isinstance(path, Path) or not re.fullmatch(HUB_ID, text):
        raise UserError(f"model: there is no folder {text!r}")
    return text


def _check_variant(source: str, folder: Path, variant: str | None) -> None:
    """Refuse a folder whose weights are all of another variant than asked for, which diffusers
    reports as missing."""
    names = [file.name for file in folder.glob("*/*.safetensors")]
    found = {
        match[1]
        for name in names
        if (match := re.fullmatch(r".*\.([a-z]\w*)(?:-\d+-of-\d+)?\.safetensors", name))
    }
    plain = any(re.fullmatch(r"[^.]+\.safetensors", name) for name in names)
    if variant is None and found and not plain:
        raise UserError(
            f"model folder {source!r} has weights of variant {', '.join(sorted(found))} only: "
            f"give variant={min(found)!r}"
        )
    if variant is not None and names and variant not in found:
        have = f"only of {', '.join(sorted(found))}" if found else "of no variant"
        raise UserError(
            f"model folder {source!r} has weights {have}: variant={variant!r} is not there"
        )


def read_parts(
    path: str | Path,
    revision: str | None = None,
    config: str | Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> Any:
    """A model's pipeline as far as it is known without its weights: tokenizers, scheduler, and
    networks that have a shape and a config but no numbers; text encoders are empty modules. To
    check a request before anything is loaded.

    Raises:
        UserError: as `load`.
    """
    if is_file(path):
        source, index = _find_index(Path(path).expanduser(), config)
        revision = None
    else:
        source = _find_source(path)
        index = read_index(source, revision)
    kind = getattr(diffusers, index["_class_name"])
    hollow: dict[str, Any] = {**find_omitted(index)}
    encoders: dict[str, torch.nn.Module] = {}
    try:
        for part, named in index.items():
            if not isinstance(named, (list, tuple)) or len(named) != 2 or named[1] is None:
                continue
            if part.startswith("text_encoder"):
                encoders[part] = torch.nn.Identity()
            if part in ("unet", "transformer", "vae"):
                network = getattr(diffusers, named[1])
                with torch.device("meta"):
                    hollow[part] = network.from_config(
                        network.load_config(source, subfolder=part, revision=revision)
                    )
            elif not part.startswith("tokenizer") and part != "scheduler":
                hollow[part] = None
        if "requires_safety_checker" in index:
            hollow["requires_safety_checker"] = False
        folder = fetch(source, index, revision, None, hollow)
        parts = kind.from_pretrained(str(folder), **hollow)
        # Past the pipeline's own __setattr__, which would look into them.
        vars(parts).update(encoders)
        if scheduler is not None:
            change_scheduler(parts, scheduler)
        return parts
    except UserError:
        raise
    except Exception as error:  # likewise
        raise UserError(f"model {source!r} cannot be read: {read_first_line(error)}") from error
