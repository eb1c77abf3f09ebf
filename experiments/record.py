"""What ``run.json`` says: with what a run was made, so that it can be made again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.files import ForeignFile
from evaluation.locks import is_held, locked
from evaluation.results import RUN_FILE, SCHEMA_VERSION, read_record, sha256, write_json
from evaluation.terminal import printable
from evaluation.weights import model_files
from experiments.folder import missing_items
from experiments.plan import Plan, local_folder
from experiments.state import others_alive

PACKAGES = ("asyndm", "torch", "diffusers", "transformers", "numpy", "pillow")


def begin_record(plan: Plan, pipe: Any, samples: bool) -> dict[str, Any]:
    """The run's record: the one its images were begun with, else a new one, written.

    Args:
        plan: of the run.
        pipe: its pipeline.
        samples: whether images will be made, which is said where earlier ones were made with something else.
    """
    with locked(plan.folder):
        record = _begun(plan)
        if record is None:
            record = _new_record(plan, pipe)
        said = _begin_making(plan, record) if samples else ""
        write_json(plan.folder / RUN_FILE, record)
    if said:
        print(
            f"warning: {plan.label}: goes on with {said}: its images can differ in the last bits",
            file=sys.stderr,
        )
    if record["batch_size"] != plan.config["batch_size"]:
        print(
            f"{plan.label}: goes on with batch_size={record['batch_size']}, as begun, so that "
            "images come back byte for byte",
            file=sys.stderr,
        )
    return record


def has_record(plan: Plan) -> bool:
    """Whether it is known with what the run was begun."""
    try:
        read_record(plan.folder)
    except UserError:
        return False
    return True


def _begun(plan: Plan) -> dict[str, Any] | None:
    """The record of a run that has images or is being made; None for one to begin anew, or whose record is damaged."""
    if not (plan.folder / RUN_FILE).exists():
        return None
    try:
        record = read_record(plan.folder)
    except ForeignFile:
        raise
    except UserError as error:
        print(printable(f"warning: {error}; written anew"), file=sys.stderr)
        return None
    alone, there = not any(is_held(file) for file in others_alive(plan)), _count(plan)
    if alone and not there:
        return None
    record.setdefault("batch_size", plan.config["batch_size"])
    first = {"git_commit": record.get("git_commit"), "versions": record.get("versions", {}), "images": there}
    makers = record.setdefault("made_with", [first])
    if alone and makers:
        makers[-1]["images"] += max(0, there - sum(maker["images"] for maker in makers))
    return record


def _unknown_makers(plan: Plan) -> list[dict[str, Any]]:
    """Of the images that are there already, whose record was lost."""
    there = _count(plan)
    return [{"git_commit": None, "versions": {}, "images": there}] if there else []


def _count(plan: Plan) -> int:
    """Of the run's images, those that are there."""
    return len(plan.items) - len(missing_items(plan, plan.items))


def _maker() -> dict[str, Any]:
    """The program and the packages that make images now."""
    return {
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _begin_making(plan: Plan, record: dict[str, Any]) -> str:
    """Puts what makes images now at the end of ``made_with``.

    Returns:
        in what it differs from what the others were made with, in words.
    """
    now, makers = _maker(), record["made_with"]
    own = next((maker for maker in makers if _is(maker, now)), {**now, "images": 0})
    others = [maker for maker in makers if maker is not own and maker["versions"]]
    record["made_with"] = [*(maker for maker in makers if maker is not own), own]
    begun = {"git_commit": record.get("git_commit"), "versions": record.get("versions", {})}
    if begun in ({key: maker.get(key) for key in begun} for maker in others):
        return _differences(now, begun, "begun with")
    return _differences(now, others[-1], "partly made with") if others else ""


def _is(maker: dict[str, Any], now: dict[str, Any]) -> bool:
    return all(maker.get(key) == value for key, value in now.items())


def _differences(now: dict[str, Any], then: dict[str, Any], how: str) -> str:
    """ "torch 2.6 (begun with 2.5), commit 1a2b3c4 (begun with 5d6e7f8)"."""
    pairs = {name: (of, then["versions"].get(name)) for name, of in now["versions"].items()}
    pairs["commit"] = _short(now["git_commit"]), _short(then["git_commit"])
    return printable(
        ", ".join(f"{name} {of} ({how} {was})" for name, (of, was) in pairs.items() if of != was)
    )


def _short(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:7] + "+" * commit.endswith("+")


def _new_record(plan: Plan, pipe: Any) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "label": plan.label,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": {**plan.config, "shard": None},
        "identity": plan.identity,
        "prompts": len(plan.prompts),
        "images": len(plan.items),
        "batch_size": plan.config["batch_size"],
        **_maker(),
        "made_with": _unknown_makers(plan),
        "model": _model(plan),
        "device": _device(plan, pipe),
        "command": sys.argv,
        "metrics": {},
        "timings": {"sampling_seconds": 0.0, "images_sampled": 0, "scoring_seconds": 0.0},
    }


def add_timings(plan: Plan, **seconds: float) -> None:
    """Adds to the run's timings, which are the sum over its processes and beginnings (but for what was killed), and its
    images to those that this program and these packages made."""
    with locked(plan.folder):
        record = read_record(plan.folder)
        for key, value in seconds.items():
            record["timings"][key] = round(record["timings"].get(key, 0) + value, 3)
        now = _maker()
        for maker in record.get("made_with", ()):
            if _is(maker, now):
                maker["images"] += seconds.get("images_sampled", 0)
        write_json(plan.folder / RUN_FILE, record)


@contextmanager
def threads_as_begun(plan: Plan) -> Iterator[None]:
    """As many threads as the run was begun with: on a CPU they decide the order of sums, and so the last bits."""
    import torch

    device, own = read_record(plan.folder).get("device", {}), torch.get_num_threads()
    wanted = int(device.get("threads", own)) if device.get("type") == "cpu" else own
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(own)


@cache
def git_commit() -> str | None:
    """The commit of the program that runs, with "+" where tracked files were changed; None outside a checkout."""
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "HEAD")
    return commit and commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _model(plan: Plan) -> dict[str, Any]:
    model = plan.config["model"]
    folder = local_folder(model)
    facts: dict[str, Any] = {"path": model["path"], "revision": model["revision"]}
    if folder is not None:
        weights = [path for path in model_files(folder) if path.suffix != ".json"]
        facts["sha256"] = {path.relative_to(folder).as_posix(): sha256(path) for path in weights}
    else:
        facts["commit"] = _cached_commit(model)
    return facts


def _cached_commit(model: dict[str, Any]) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model["path"], "model_index.json", revision=model["revision"])
    return Path(index).parent.name if isinstance(index, str) else None


def _device(plan: Plan, pipe: Any) -> dict[str, Any]:
    import torch

    from asyndm.networks import denoiser

    device = pipe._execution_device  # weights may lie elsewhere
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "type": device.type,
        "name": name or platform.machine(),
        "dtype": str(denoiser(pipe).dtype).removeprefix("torch."),
        "threads": plan.config["model"].get("threads") or torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
