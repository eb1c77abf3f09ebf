"""Where the weights of metrics are: in this repository, in a folder of one's own, or on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tqdm import tqdm

from asyndm.errors import UserError, read_first_line
from evaluation.messages import is_quiet
from evaluation.runs.files import hash_file

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
"""Home of the evaluators of the shapes world; a model named "shapes" is the one of its metric here.
"""
SMALL, BIG = ("*.json", "*.txt", "*.model", "*.jinja"), ("*.safetensors", "pytorch_model*.bin")
_KEPT = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model", ".jinja")


def find_local(model: str) -> Path | None:
    """The file or folder of a model on this disk; None for one of the hub.

    Raises:
        UserError: it is meant to be on this disk, and is not.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    if (
        path.is_absolute()
        or model.startswith((".", "~"))
        or model.count("/") != 1
        or path.suffix in (".pt", ".pth")
    ):
        raise UserError(f"model={model}: no such file or folder, and no ORG/NAME of the hub")
    return None


def check_weights(model: str, revision: str | None) -> None:
    """Sees to it that a model of transformers is here, from the hub if need be.

    Raises:
        UserError: it is not, or the folder is none of transformers.
    """
    path = find_local(model)
    if path is None:
        _fetch(model, revision)
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model={model}: not a folder of transformers (no config.json)")
        if not any(found for pattern in BIG for found in path.glob(pattern)):
            raise UserError(f"model={model}: no weights there (model.safetensors)")


def check_settings(source: str) -> None:
    """Sees to it that what comes beside the weights, a tokenizer or a picture transform, is here.

    Raises:
        UserError: it is not.
    """
    path = find_local(source)
    if path is None:
        _fetch(source, None, weights=False)
    elif not any(path.glob("*.json")):
        raise UserError(f"{source}: no tokenizer or picture transform there")


@cache
def _fetch(model: str, revision: str | None, weights: bool = True) -> None:
    from huggingface_hub import snapshot_download

    try:
        for pattern in BIG if weights else ("",):
            wanted = [*SMALL, pattern] if pattern else [*SMALL]
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
            if not pattern or any(folder.glob(pattern)):
                return
    except Exception as error:  # whatever the hub or the network raises
        raise UserError(
            f"model={model}: not in the local cache and cannot be fetched "
            f"({read_first_line(error)}); give the folder of a copy"
        ) from error
    raise UserError(f"model={model}: no weights of PyTorch in that repository")


def find_weights_file(setting: str, source: str, name: str, revision: str | None) -> Path:
    """A file of weights on this disk, from the hub if need be.

    Args:
        setting: what a complaint begins with.
        source: the file, a folder with one of this `name`, or ORG/NAME of the hub.

    Raises:
        UserError: it is not here and cannot be fetched.
    """
    path = Path(source).expanduser()
    file = path / name if path.is_dir() else path
    if file.is_file():
        return file
    if (
        path.is_dir()
        or path.suffix in (".pt", ".pth")
        or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source)
    ):
        raise UserError(
            f"{setting}={source}: neither {name}, nor a folder with it, nor ORG/NAME of the hub"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except Exception as error:  # whatever the hub or the network raises
        raise UserError(
            f"{setting}={source}: {name} is not in the local cache and cannot be fetched "
            f"({read_first_line(error)}); give the file of a copy"
        ) from error


def identify(model: str, revision: str | None = None) -> str:
    """What names a model's weights wherever they lie: a hash of the files, or the hub's name and
    revision."""
    path = Path(model).expanduser()
    if path.exists():
        return hash_files(path)
    return model if revision is None else f"{model}@{revision}"


def hash_files(path: Path) -> str:
    """A hash of a file, or of everything in a model's folder that says what it computes."""
    files = list_model_files(path) if path.is_dir() else iter([path])
    stats = ((file, file.stat()) for file in files)
    return _hash_files(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats), path)


def list_model_files(folder: Path) -> Iterator[Path]:
    """A model's weights, configs and vocabularies, in a fixed order."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix in _KEPT and path.is_file())


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...], root: Path) -> str:
    lines = []
    total = sum(size for _, size, _ in files)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=root.name, delay=2, disable=is_quiet()
    ) as bar:
        for path, size, written in files:
            lines.append(f"{path.relative_to(root).as_posix()} {_hash_once(path, size, written)}\n")
            bar.update(size)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def hash_weights(path: Path) -> str:
    """The SHA-256 of a file, which is read once as long as it does not change: weights have
    gigabytes, and every run of a sweep notes theirs."""
    stat = path.stat()
    return _hash_once(path, stat.st_size, stat.st_mtime_ns)


@cache
def _hash_once(path: Path, size: int, written: int) -> str:
    return hash_file(path)
