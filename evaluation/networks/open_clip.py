"""Networks of open_clip: by name and tag, from the hub, or from a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from asyndm.errors import UserError, join_lines, read_first_line

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

HUB, QUICK = "hf-hub:", "-quickgelu"
FILES = ("open_clip_config.json", "open_clip_model.safetensors")


class CLIP(Protocol):
    """A network of open_clip."""

    @property
    def visual(self) -> torch.nn.Module: ...

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor: ...

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor: ...


class OpenCLIP(NamedTuple):
    """A network, what makes a picture its input (3, H, W), and what makes texts its tokens (N,
    L)."""

    network: CLIP
    prepare: Callable[[Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]


def _find_folder(model: str) -> Path | None:
    """The folder of a model on this disk; None for one that open_clip knows or fetches."""
    path = Path(model).expanduser()
    return path if path.is_dir() or path.is_absolute() or model.startswith((".", "~")) else None


def name_architecture(model: str, pretrained: str | None) -> str:
    """The model of which weights with that tag are: of two that differ in their activation alone,
    GELU and QuickGELU, the one they were trained with, whichever is named. A folder, a repository
    and a file of weights are as they say."""
    if (
        pretrained is None
        or model.startswith(HUB)
        or model.endswith(QUICK)
        or _find_folder(model) is not None
    ):
        return model
    import open_clip

    quick = model + QUICK
    if (
        not open_clip.get_pretrained_cfg(model, pretrained).get("quick_gelu")
        or quick not in open_clip.list_models()
    ):
        return model
    return quick


def check_open_clip(model: str, pretrained: str | None) -> None:
    """Sees to it that the weights are here, fetched if need be.

    Raises:
        UserError: they are not.
    """
    if (folder := _find_folder(model)) is not None:
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(f"model={model}: no {name} there")
        return
    import open_clip

    if model.startswith(HUB):
        wanted = {"hf_hub": model.removeprefix(HUB) + "/"}
    else:
        if model not in open_clip.list_models():
            raise UserError(
                f"model={model}: no such folder, and open_clip knows no model of that name"
            )
        wanted = open_clip.get_pretrained_cfg(model, pretrained or "")
        if not wanted:
            if pretrained is not None and Path(pretrained).expanduser().is_file():
                return
            raise UserError(f"open_clip knows no weights {pretrained!r} of the model {model!r}")
    try:
        open_clip.download_pretrained(wanted)
    except Exception as error:  # whatever the hub or the network raises
        raise UserError(
            f"the weights of {model} are not in the local cache and cannot be fetched "
            f"({read_first_line(error)}); give model=FOLDER"
        ) from error


def load_open_clip(
    model: str, pretrained: str | None, where: torch.device, precision: torch.dtype
) -> OpenCLIP:
    """Network, picture transform and tokenizer, of the `name_architecture` that the weights are of.

    Raises:
        UserError: they cannot be loaded.
    """
    import open_clip

    folder = _find_folder(model)
    source = name_architecture(model, pretrained) if folder is None else f"local-dir:{folder}"
    if pretrained is not None and (file := Path(pretrained).expanduser()).is_file():
        pretrained = str(file)
    try:
        network, _, preprocess = open_clip.create_model_and_transforms(
            source, pretrained=None if ":" in source else pretrained
        )
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # open_clip, torch and the hub raise many kinds for a bad checkpoint
        raise UserError(f"model={model}: {join_lines(error)}") from error
    network = network.eval().requires_grad_(False).to(where, precision)
    return OpenCLIP(network, preprocess, tokenizer)
