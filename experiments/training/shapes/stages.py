"""The stages of the training, each skipped when its output is there."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from torch.multiprocessing.spawn import start_processes

from asyndm.errors import UserError
from asyndm.models import load
from asyndm.protocols import Network, Pipeline
from asyndm.shapes.model import build_autoencoder, build_pipeline
from evaluation.runs.files import write_json
from experiments.training.shapes.adapter import add_adapter, save_adapter
from experiments.training.shapes.autoencoder import standardise, train_autoencoder
from experiments.training.shapes.dataset import make_dataset
from experiments.training.shapes.denoiser import train_denoiser
from experiments.training.shapes.settings import Settings

_start: Callable[..., object] = start_processes  # which torch leaves without types


def _run_workers(stage: Callable[..., None], *arguments: object, count: int) -> None:
    """``stage(rank, *arguments)`` in processes of their own, which begin as copies of one that has
    imported what all need."""
    set_forkserver_preload([__name__])
    _start(stage, arguments, nprocs=count, start_method="forkserver")


def _load_autoencoder(folder: Path | str, **options: str) -> Network:
    return AutoencoderKL.from_pretrained(folder, **options)


def _write_record(out: Path, name: str, values: dict[str, Any]) -> None:
    write_json(
        out / f"{name}.json", {**values, "machine": platform.processor() or platform.machine()}
    )
    print(f"{name}: {values}", flush=True)


def make_autoencoder(out: Path, settings: Settings) -> None:
    """`out`/vae, whose latents have mean 0 and deviation 1 in every channel."""
    torch.set_num_threads(settings.workers)
    torch.manual_seed(settings.seed)
    vae = build_autoencoder()
    record = train_autoencoder(vae, settings.autoencoder, settings.seed)
    standardise(vae, settings.seed)
    vae.save_pretrained(out / "vae")
    _write_record(out, "autoencoder", record)


def polish_decoder(out: Path, settings: Settings) -> None:
    """`out`/vae_polished: the decoder alone trained on, so that the latents stay what the denoisers
    know. The same as `out`/vae where it has no time."""
    torch.set_num_threads(settings.workers)
    vae = _load_autoencoder(out / "vae")
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    record: dict[str, Any] = {"steps": 0}
    if settings.polish.seconds:
        record = train_autoencoder(vae, settings.polish, settings.seed + 3)
    vae.save_pretrained(out / "vae_polished")
    _write_record(out, "polish", record)


def make_pictures(rank: int, out: Path, settings: Settings) -> None:
    """`out`/data_RANK.pt: each worker renders and encodes its own pictures."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(settings.seed + 100 + rank)
    vae = _load_autoencoder(out / "vae").eval()
    tokenizer = build_pipeline(vae).tokenizer
    data = make_dataset(vae, tokenizer, settings.pictures, generator)
    torch.save(data, out / f"data_{rank}.part")
    (out / f"data_{rank}.part").rename(out / f"data_{rank}.pt")


def adopt_autoencoder(out: Path, settings: Settings) -> None:
    """The autoencoder of `start_from` as `out`/vae: latents must stay what its denoiser knows."""
    assert settings.start_from is not None
    vae = _load_autoencoder(settings.start_from, subfolder="vae").float()
    vae.save_pretrained(out / "vae")
    _write_record(out, "autoencoder", {"from": settings.start_from})


def begin_trunk(out: Path, settings: Settings) -> Pipeline:
    """The pipeline that the trunk begins with: networks of `start_from`, or random ones."""
    torch.manual_seed(settings.seed)
    pipe = build_pipeline(_load_autoencoder(out / "vae"))
    if settings.start_from and not settings.fresh:
        earlier = load(settings.start_from, device="cpu", dtype="float32")
        pipe.unet.load_state_dict(earlier.unet.state_dict())
        pipe.text_encoder.load_state_dict(earlier.text_encoder.state_dict())
    return pipe


def train_trunk(rank: int, out: Path, settings: Settings) -> None:
    """`out`/trunk.pt: plain training of both networks by all workers together."""
    torch.set_num_threads(1)
    workers = settings.workers
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=workers
    )
    pipe = begin_trunk(out, settings)
    data = torch.load(out / f"data_{rank}.pt", weights_only=True)

    def report(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    record = train_denoiser(
        pipe, data, settings.trunk, seed=settings.seed, state=out / "trunk.pt", report=report
    )
    dist.destroy_process_group()
    if rank == 0:
        pipe.save_pretrained(out / "trunk")
        _write_record(out, "trunk", record)


def train_branch(rank: int, out: Path, settings: Settings, names: list[str]) -> None:
    """`out`/NAME, a checkpoint: the trunk trained on, its own way, by one worker on all the
    pictures; or a LoRA of the trunk."""
    torch.set_num_threads(1)
    name = names[rank]
    recipe, seed = settings.branches[name], settings.seed + 1
    pipe = load(out / "trunk", device="cpu", dtype="float32")
    if recipe.lora_rank:
        add_adapter(pipe, recipe.lora_rank, seed)
    parts = [torch.load(out / f"data_{r}.pt", weights_only=True) for r in range(settings.workers)]
    record = train_denoiser(
        pipe,
        {key: torch.cat([part[key] for part in parts]) for key in parts[0]},
        recipe,
        seed=seed,
        state=out / f"{name}.pt",
        start=None if recipe.lora_rank else out / "trunk.pt",
        report=lambda line: print(name, line, flush=True),
    )
    if recipe.lora_rank:
        save_adapter(pipe, out / name)
    else:
        pipe.register_modules(vae=_load_autoencoder(out / "vae_polished").half())
        pipe.unet.half()
        pipe.save_pretrained(out / name)
    _write_record(out, f"{name}_branch", record)


def claim_folder(out: Path, settings: Settings) -> None:
    """`out`/settings.json, which all stages in `out` are of.

    Raises:
        UserError: they are of other settings.
    """
    path, wanted = out / "settings.json", asdict(settings) | {"out": None}
    if not path.exists():
        write_json(path, wanted)
    elif json.loads(path.read_text()) != wanted:
        raise UserError(
            f"out={out}: holds stages made with other settings; choose another, or delete it"
        )


def train(out: Path, settings: Settings) -> None:
    """All the stages, skipping those already done.

    Raises:
        UserError: `out` holds stages of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim_folder(out, settings)
    if settings.start_from and not (out / "autoencoder.json").exists():
        adopt_autoencoder(out, settings)
    if not (out / "autoencoder.json").exists():
        make_autoencoder(out, settings)
    if not all((out / f"data_{rank}.pt").exists() for rank in range(settings.workers)):
        _run_workers(make_pictures, out, settings, count=settings.workers)
    if not (out / "trunk.json").exists():
        (out / "rendezvous").unlink(missing_ok=True)
        _run_workers(train_trunk, out, settings, count=settings.workers)
    if not (out / "polish.json").exists():
        polish_decoder(out, settings)
    names = [name for name in settings.branches if not (out / f"{name}_branch.json").exists()]
    for first in range(0, len(names), settings.workers):
        group = names[first : first + settings.workers]
        _run_workers(train_branch, out, settings, group, count=len(group))
