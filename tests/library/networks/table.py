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

from asyndm.networks import Family, families, find_family
from tests.library.networks.cases import PLAIN, VARIANTS, built, distance, dm, is_local, stock
from tests.library.networks.oracles import ORACLES
from tests.library.networks.relatives import RELATIVES, relative

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"


def module(family: Family) -> str:
    """The name of a family's file."""
    return type(family).__module__.rpartition(".")[2]


def number(value: float) -> str:
    return "0.0" if value == 0 else f"{value:.0e}"


def difference(name: str, steps: int = 5) -> float:
    """DM against the stock pipeline, over the largest latent."""
    return distance(dm(name, num_inference_steps=steps), stock(name, num_inference_steps=steps))


def relatives_of(family: Family) -> list[str]:
    """Its pipelines that share their parts with another."""
    return [name for name in family.pipelines if name in RELATIVES]


def related(name: str) -> float:
    base, more = RELATIVES[name]
    pipe, call = relative(name), {"num_inference_steps": 5, **more}
    return distance(dm(base, pipe, **call), stock(base, pipe, **call))


def oracle(name: str) -> str:
    """The largest difference to the slow computation token by token, in float64."""
    if name not in ORACLES:
        return "–"
    measure, settings = ORACLES[name]
    return number(max(measure(setting) for setting in settings))


def locality(names: list[str]) -> str:
    """In how many of the pipelines a token's own level moves the output most where it is, for each
    of five tokens."""
    good = sum(is_local(name) for name in names)
    return f"{good} of {len(names)}"


def refused(family: Family) -> list[str]:
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


def short(names: list[str], most: int = 6) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "–") + more


def row(family: Family) -> str:
    names = [name for name in PLAIN if find_family(built(name)) is family]
    variants = [name for name in VARIANTS if find_family(built(name)) is family]
    plain = max(difference(name, steps) for name in names for steps in (5, 20))
    with_more = [difference(name) for name in variants] + [
        related(name) for name in relatives_of(family)
    ]
    lines = len(Path(inspect.getfile(type(family))).read_text().splitlines())
    tested = {type(built(name)).__name__ for name in (*names, *variants)}
    relatives = [name for name in family.pipelines if name not in tested]
    cells = [
        f"`{module(family)}` ({', '.join(family.networks)})",
        str(lines),
        ", ".join((*sorted(tested), *relatives)),
        number(plain),
        f"{number(max(with_more))} ({len(with_more)})" if with_more else "–",
        oracle(module(family)),
        locality(names),
        short(refused(family)),
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    head = (
        "| file (network) | lines | pipelines | DM - stock | variants (number) | oracle | locality "
        "| refused by name |"
    )
    rows = [head, "|---|---|---|---|---|---|---|---|", *(row(family) for family in families())]
    return "\n".join(rows)


def main() -> int:
    """Measures, and writes the table into the page."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    page = PAGE.read_text()
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:start]}\n{table()}\n{page[stop:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
