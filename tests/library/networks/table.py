"""The table of docs/models.md, measured on the tiny pipelines.

python -m tests.library.networks.table
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from pathlib import Path

import diffusers
import torch

from asyndm.networks import Family, find_family, list_families
from tests.library.networks.cases import (
    PLAIN,
    VARIANTS,
    build,
    is_local,
    measure_distance,
    sample_dm,
    sample_stock,
)
from tests.library.networks.oracles import ORACLES
from tests.library.networks.relatives import RELATIVES, build_relative

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"


def name_module(family: Family) -> str:
    """The name of a family's file."""
    return type(family).__module__.rpartition(".")[2]


def format_number(value: float) -> str:
    return "0.0" if value == 0 else f"{value:.0e}"


def measure_difference(name: str, steps: int = 5) -> float:
    """DM against the stock pipeline, over the largest latent."""
    return measure_distance(
        sample_dm(name, num_inference_steps=steps), sample_stock(name, num_inference_steps=steps)
    )


def list_relatives(family: Family) -> list[str]:
    """Its pipelines that share their parts with another."""
    return [name for name in family.pipelines if name in RELATIVES]


def measure_relative(name: str) -> float:
    base, more = RELATIVES[name]
    pipe, call = build_relative(name), {"num_inference_steps": 5, **more}
    return measure_distance(sample_dm(base, pipe, **call), sample_stock(base, pipe, **call))


def measure_oracle(name: str) -> str:
    """The largest difference to the slow computation token by token, in float64."""
    if name not in ORACLES:
        return "–"
    measure, settings = ORACLES[name]
    return format_number(max(measure(setting) for setting in settings))


def count_local(names: list[str]) -> str:
    """In how many of the pipelines a token's own level moves the output most where it is, for each
    of five tokens."""
    good = sum(is_local(name) for name in names)
    return f"{good} of {len(names)}"


def list_refused(family: Family) -> list[str]:
    """Pipelines of diffusers around the same network that are not served."""
    found = []
    for name in dir(diffusers):
        if (
            not name.endswith("Pipeline")
            or name in family.pipelines
            or name.startswith(("Onnx", "Flax"))
        ):
            continue
        kind = getattr(diffusers, name)
        annotations = str(inspect.signature(kind)) if isinstance(kind, type) else ""
        if any(network in annotations for network in family.networks):
            found.append(name)
    return found


def shorten(names: list[str], most: int = 6) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "–") + more


def make_row(family: Family) -> str:
    names = [name for name in PLAIN if find_family(build(name)) is family]
    variants = [name for name in VARIANTS if find_family(build(name)) is family]
    plain = max(measure_difference(name, steps) for name in names for steps in (5, 20))
    with_more = [measure_difference(name) for name in variants] + [
        measure_relative(name) for name in list_relatives(family)
    ]
    lines = len(Path(inspect.getfile(type(family))).read_text().splitlines())
    tested = {type(build(name)).__name__ for name in (*names, *variants)}
    relatives = [name for name in family.pipelines if name not in tested]
    cells = [
        f"`{name_module(family)}` ({', '.join(family.networks)})",
        str(lines),
        ", ".join((*sorted(tested), *relatives)),
        format_number(plain),
        f"{format_number(max(with_more))} ({len(with_more)})" if with_more else "–",
        measure_oracle(name_module(family)),
        count_local(names),
        shorten(list_refused(family)),
    ]
    return "| " + " | ".join(cells) + " |"


def make_table() -> str:
    head = (
        "| file (network) | lines | pipelines | DM - stock | variants (number) | oracle | locality "
        "| refused by name |"
    )
    rows = [
        head,
        "|---|---|---|---|---|---|---|---|",
        *(make_row(family) for family in list_families()),
    ]
    return "\n".join(rows)


def main() -> int:
    """Measures, and writes the table into the page."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    page = PAGE.read_text()
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:start]}\n{make_table()}\n{page[stop:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
