"""Files of results: written whole or not at all, and opened only where they are files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from itertools import chain, count
from pathlib import Path
from typing import Any

from asyndm.errors import UserError, read_first_line

REMEDY = "delete it and ask for the run again: what is missing is made anew"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


class ForeignFile(UserError):
    """What this program neither reads nor replaces: a file of a newer version, or something that is
    no file."""


def require_file(path: Path, what: str = "file", remedy: str = "move it away") -> Path:
    """The path of a file; what is none is not opened, for a pipe would be waited for.

    Args:
        what: of the file, for messages.
        remedy: what helps where something else is there.

    Raises:
        FileNotFoundError: nothing is there.
        ForeignFile: a folder, a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        raise ForeignFile(f"{path}: a {kind}, not a {what}; {remedy}")
    return path


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Writes a file whole or not at all; with `durable`, it is on the disk before it gets its
    name."""
    if not os.path.isdir(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` of readable JSON."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str = REMEDY) -> Any:
    """What a JSON file says.

    Raises:
        FileNotFoundError: nothing is there.
        UserError: it is not JSON, or no file.
    """
    try:
        return json.loads(
            require_file(path).read_text(encoding="utf-8-sig"), parse_constant=_refuse
        )
    except ForeignFile:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({read_first_line(error)}); {remedy}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def keep_beside(path: Path) -> Path:
    """A copy of a file as it is: its name and ``.bak``, or ``.bak.1`` and so on where another copy
    has that name.

    Raises:
        OSError: it cannot be read or written.
    """
    content = require_file(path).read_bytes()
    suffixes = chain([".bak"], (f".bak.{number}" for number in count(1)))
    copies = (path.with_name(path.name + suffix) for suffix in suffixes)
    copy = next(
        c for c in copies if not os.path.lexists(c) or (c.is_file() and c.read_bytes() == content)
    )
    if not os.path.lexists(copy):
        write_bytes(copy, content)
    return copy


def is_whole_png(path: Path) -> bool:
    """Whether the file is there and has its end: a PNG cut short by a crash does not count as
    made."""
    try:
        with require_file(path).open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except (OSError, ForeignFile):
        return False


def hash_file(path: Path) -> str:
    """The file's SHA-256, in hexadecimal.

    Raises:
        ForeignFile: no file.
    """
    with require_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
