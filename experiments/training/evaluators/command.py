"""Train the evaluators of the shapes world, from nothing: a small CLIP and a small BLIP that
answers questions.

    python -m experiments.training.evaluators                           # both, in 50 minutes
    python -m experiments.training.evaluators --only clip --seconds 60  # quicker and worse

The results are ``OUT/clip``, a folder of open_clip, and ``OUT/blip_vqa``, one of transformers, each
with a record of its training; ``python -m experiments.studies.evaluator_accuracy --weights OUT``
says how good they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asyndm.errors import UserError
from evaluation.commands import Parser, command_line
from evaluation.runs.files import write_json
from experiments.engine.preflight import check_writable

NAMES = ("clip", "blip_vqa")


@command_line(errors=(UserError,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.training.evaluators", __doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/evaluators"),
        metavar="FOLDER",
        help="where they are saved, each in a folder of its own",
    )
    parser.add_argument("--only", choices=NAMES, help="one of them")
    parser.add_argument(
        "--seconds", type=float, default=1500, metavar="S", help="of training, for each"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=40000,
        metavar="N",
        help="rendered once, from which batches are drawn",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of first weights, pictures and batches",
    )
    chosen = parser.read(arguments)
    if not 0 < chosen.seconds < math.inf or chosen.pictures < 2:
        raise UserError("--seconds must be above 0, --pictures at least 2")
    check_writable(chosen.out.resolve(), 0)
    if chosen.only == "blip_vqa" and not (chosen.out / "clip").is_dir():
        raise UserError(
            f"--out {chosen.out}: no clip there, with whose vision blip_vqa begins; train it first"
        )
    for name in NAMES if chosen.only is None else (chosen.only,):
        record = train(name, chosen.out / name, chosen.seconds, chosen.pictures, chosen.seed)
        print(f"{name}: {record}")
    return 0


def train(name: str, folder: Path, seconds: float, pictures: int, seed: int) -> dict[str, Any]:
    """One evaluator, saved with the record of its training."""
    from asyndm.shapes.model import load_pipeline
    from experiments.training.evaluators import fitting, networks
    from experiments.training.evaluators.pictures import draw_training_pool

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pool = draw_training_pool(pictures, load_pipeline("shapes").vae.float(), generator)
    if name == "clip":
        clip = networks.build_clip()
        record = fitting.train_clip(clip, pool, seconds, generator)
        networks.save_clip(clip, folder)
    else:
        blip, tokenizer = networks.build_blip()
        some = fitting.normalise(pool.pictures[:256])
        networks.copy_vision(blip, networks.load_clip(folder.parent / "clip"), some)
        record = fitting.train_blip(blip, tokenizer, pool, seconds, generator)
        networks.save_blip(blip, tokenizer, folder)
    record |= {"pictures": pictures, "seed": seed}
    write_json(folder / "training.json", record)
    return record
