"""Where this package lies: in a checkout, with the laboratory beside it, or installed alone."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path


def find_checkout() -> Path | None:
    """The root of the checkout that this package is run from; None of a package that was installed
    without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "experiments" / "run.py").is_file() else None


def read_version() -> str:
    """The version of this package: that of its checkout's ``pyproject.toml``, or else of what is
    installed."""
    root = find_checkout()
    if root is None:
        return importlib.metadata.version("asyndm")
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return str(settings["project"]["version"])
