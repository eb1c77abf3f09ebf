"""Prints the versions that the library runs with here: python -m tests.versions."""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires, version


def read_versions() -> dict[str, str]:
    """Of Python and of each package that the library needs, by its name."""
    needed = [line for line in requires("asyndm") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line)[0] for line in needed]
    return {"Python": sys.version.split()[0], **{name: version(name) for name in names}}


if __name__ == "__main__":
    print(", ".join(f"{name} {number}" for name, number in read_versions().items()))
