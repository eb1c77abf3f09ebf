"""The table of docs/models.md, measured on the tiny pipelines: python -m
tests.library.networks.table"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch

from asyndm.networks import Family, families, find_family
from tests.library.networks import test_families, test_oracles, test_relatives, test_variants
from tests.library.networks.cases import built, distance, dm, stock

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"
ORACLES: dict[str, list[tuple[Any, Any]]] = {
    "unet": [
        (test_oracles.test_unets_pixel_by_pixel, make)
        for make in (test_oracles.make_unet, test_oracles.make_sdxl_unet)
    ],
    "sd3": [(test_oracles.test_sd3_token_by_token, mark) for mark in test_oracles.SD3_CONFIGS],
    "flux": [(test_oracles.test_flux_token_by_token, guided) for guided in (True, False)],
    "pixart": [(test_oracles.test_pixart_token_by_token, sized) for sized in (False, True)],
    "sana": [(test_oracles.test_sana_token_by_token, guided) for guided in (False, True)],
}


def module(family: Family) -> str:
    """The name of a family's file."""
    return type(family).__module__.rpartition(".")[2]


def number(value: float) -> str:
    return "0.0" if value == 0 else f"{value:.0e}"


def difference(name: str, steps: int = 5) -> float:
    """DM against the stock pipeline, over the largest latent."""
    call = {"num_inference_steps": steps}
    return distance(dm(name, **call), stock(name, **call))


def relatives_of(family: Family) -> list[str]:
    """Its pipelines that share their parts with another."""
    return [name for name in family.pipelines if name in test_relatives.RELATIVES]


def related(name: str) -> float:
    base, more = test_relatives.RELATIVES[name]
    pipe, call = test_relatives.relative(name), {"num_inference_steps": 5, **more}
    return distance(dm(base, pipe, **call), stock(base, pipe, **call))


def oracle(name: str) -> str:
    """The largest difference to the slow computation token by token, in float64."""
    found: list[float] = []
    usual = test_oracles.distance

    def keep(a: torch.Tensor, b: torch.Tensor) -> float:
        found.append(usual(a, b))
        return found[-1]

    test_oracles.distance = keep  # type: ignore[attr-defined]
    try:
        for test, case in ORACLES.get(name, []):
            test(case)
    finally:
        test_oracles.distance = usual  # type: ignore[attr-defined]
    return number(max(found)) if found else "–"


def locality(names: list[str]) -> str:
    """In how many of the pipelines a token's own level moves the output most where it is, for each
    of five tokens."""
    good = 0
    for name in names:
        try:
            test_families.test_a_token_moves_the_output_most_where_it_is(name)
            good += 1
        except AssertionError:
            pass
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
        annotations = str(inspect.signature(kind.__init__)) if isinstance(kind, type) else ""
        if any(network in annotations for network in family.networks):
            found.append(name)
    return found


def short(names: list[str], most: int = 6) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "–") + more


def row(family: Family) -> str:
    names = [name for name in test_families.LIMITS if find_family(built(name)) is family]
    variants = [name for name in test_variants.LIMITS if find_family(built(name)) is family]
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
