"""What ``run.json`` says: with what a run was made, so that it can be made again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from asyndm.protocols import Pipeline
from asyndm.terminal import printable
from evaluation.networks.weights import hash_weights, list_model_files
from evaluation.runs.files import ForeignFile, keep_beside
from evaluation.runs.locks import hold_tables, is_held
from evaluation.runs.records import RUN_FILE, SCHEMA_VERSION
from experiments.engine.folder import PlannedFolder
from experiments.engine.heartbeat import find_others_alive
from experiments.engine.identity import find_local_model
from experiments.engine.plan import Plan
from experiments.engine.versions import find_version, name_device

COUNTED = ("rows", "images", "backward")
"""Of the network's evaluations."""
PACKAGES = ("asyndm", "torch", "diffusers", "transformers", "numpy", "pillow")


def begin_record(folder: PlannedFolder, pipe: Pipeline, samples: bool) -> None:
    """Writes the run's record: the one its images were begun with, else a new one.

    Args:
        folder: of the run.
        pipe: its pipeline.
        samples: whether images will be made, which is said where earlier ones were made with
            something else.
    """
    plan = folder.plan
    with hold_tables(folder.path):
        record = _take_up(folder) or _make_record(folder, pipe)
        difference = _begin_making(record, _describe_maker(pipe)) if samples else ""
        folder.write_record(record)
    if difference:
        print(
            f"warning: {plan.label}: goes on with {difference}: "
            "its images can differ in the last bits",
            file=sys.stderr,
        )
    begun = [
        f"{name}={json.dumps(record.get(name))}"
        for name in ("batch_size", "batch_invariant")
        if record.get(name) != plan.config[name]
    ]
    if begun:
        print(
            f"{plan.label}: goes on with {' and '.join(begun)}, as begun, so that "
            "images come back byte for byte",
            file=sys.stderr,
        )


def _take_up(folder: PlannedFolder) -> dict[str, Any] | None:
    """The record of a run that has images or is being made; None for one to begin anew, or whose
    record is damaged, which is kept beside."""
    if not folder.is_run:
        return None
    try:
        record = deepcopy(folder.record)
    except ForeignFile:
        raise
    except UserError as error:
        copy = keep_beside(folder.path / RUN_FILE)
        print(
            printable(f"warning: {error}; written anew, and kept as {copy.name}"), file=sys.stderr
        )
        return None
    alone, there = (
        not any(is_held(file) for file in find_others_alive(folder.plan)),
        _count_made(folder),
    )
    if alone and not there:
        return None
    record.setdefault("batch_size", folder.plan.config["batch_size"])
    record.setdefault("choices", folder.plan.choices)
    makers = record.setdefault("made_with", [_read_first_maker(record) | {"images": there}])
    if alone:
        _count_standing(makers, there)
    return record


def _count_standing(makers: list[dict[str, Any]], there: int) -> None:
    """Makes the counts those of the images that stand. Which were made by whom is not kept: those
    that are gone are taken from who made the first, and those that a killed process did not count
    are given to the last."""
    gone = sum(maker["images"] for maker in makers) - there
    if gone < 0 and makers:
        makers[-1]["images"] -= gone
    for maker in makers:
        taken = max(0, min(maker["images"], gone))
        maker["images"] -= taken
        gone -= taken


def _read_first_maker(record: dict[str, Any]) -> dict[str, Any]:
    """The program, the packages and the device that a run was begun with."""
    device = record.get("device", {}).get("type")
    return {
        "git_commit": record.get("git_commit"),
        "versions": record.get("versions", {}),
        **({} if device is None else {"device": device}),
    }


def _count_made(folder: PlannedFolder) -> int:
    """Of the run's images, those that are there."""
    return len(folder.plan.items) - len(folder.missing(folder.plan.items))


def _describe_maker(pipe: Pipeline) -> dict[str, Any]:
    """The program, the packages and the type of device that make images now."""
    return {
        "device": pipe._execution_device.type,
        "git_commit": read_git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: find_version(name) for name in PACKAGES},
        },
    }


def _begin_making(record: dict[str, Any], now: dict[str, Any]) -> str:
    """Puts what makes images now at the end of ``made_with``.

    Returns:
        in what it differs from what the others were made with, in words.
    """
    makers = record["made_with"]
    own = next((maker for maker in makers if _is_maker(maker, now)), {**now, "images": 0})
    others = [maker for maker in makers if maker is not own and maker["versions"]]
    record["made_with"] = [*(maker for maker in makers if maker is not own), own]
    begun = _read_first_maker(record)
    if any(_is_maker(maker, begun) for maker in others):
        return _describe_differences(now, begun, "begun with")
    return _describe_differences(now, others[-1], "partly made with") if others else ""


def _is_maker(maker: dict[str, Any], now: dict[str, Any]) -> bool:
    # An older record has no device: what is not told is no difference.
    return all(maker.get(key, value) == value for key, value in now.items())


def _describe_differences(now: dict[str, Any], then: dict[str, Any], how: str) -> str:
    """ "torch 2.6 (begun with 2.5), commit 1a2b3c4 (begun with 5d6e7f8)"."""
    pairs = {name: (of, then["versions"].get(name)) for name, of in now["versions"].items()}
    pairs["commit"] = _shorten_commit(now["git_commit"]), _shorten_commit(then["git_commit"])
    pairs["device"] = now["device"], then.get("device", now["device"])
    return printable(
        ", ".join(f"{name} {of} ({how} {was})" for name, (of, was) in pairs.items() if of != was)
    )


def _shorten_commit(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:7] + "+" * commit.endswith("+")


def _make_record(folder: PlannedFolder, pipe: Pipeline) -> dict[str, Any]:
    """One that says of images which are there already, whose record was lost, that nothing is known
    of their making."""
    plan, there = folder.plan, _count_made(folder)
    unknown: dict[str, Any] = {"git_commit": None, "versions": {}}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "label": plan.label,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": {**plan.config, "shard": None},
        "identity": plan.identity,
        "choices": plan.choices,
        "prompts": len(plan.prompts),
        "images": len(plan.items),
        "batch_size": plan.config["batch_size"],
        "batch_invariant": plan.config["batch_invariant"],
        **(unknown if there else _describe_maker(pipe)),
        "made_with": [unknown | {"images": there}] if there else [],
        "model": _describe_model(plan),
        "device": _describe_device(plan, pipe),
        "command": sys.argv,
        "metrics": {},
        "evaluations": dict.fromkeys(COUNTED, 0),
        "timings": {"sampling_seconds": 0.0, "images_sampled": 0, "scoring_seconds": 0.0},
    }


def add_to_record(
    folder: PlannedFolder,
    pipe: Pipeline | None = None,
    evaluations: Mapping[str, int] | None = None,
    **seconds: float,
) -> None:
    """Adds to what the run's record counts, over all of its processes and beginnings (but for what
    was killed).

    Args:
        folder: of the run.
        pipe: what made ``images_sampled``, which are then counted as of this program, these
            packages and such a device.
        evaluations: "rows" of the batch that the network was called with, those it was
            differentiated for ("backward"), and "images" these were for.
        seconds: of its timings.
    """
    with folder.edit_record() as record:
        for key, value in seconds.items():
            record["timings"][key] = round(record["timings"].get(key, 0) + value, 3)
        if evaluations and evaluations.get("rows"):
            before = record.get("evaluations", {})
            record["evaluations"] = {
                name: before.get(name, 0) + evaluations.get(name, 0) for name in COUNTED
            }
        now = None if pipe is None else _describe_maker(pipe)
        makers = record.get("made_with", ())
        own = next((maker for maker in makers if now and _is_maker(maker, now)), None)
        if own is not None:
            own["images"] += seconds.get("images_sampled", 0)


@contextmanager
def use_threads_as_begun(folder: PlannedFolder) -> Iterator[None]:
    """As many threads as the run was begun with: on a CPU they decide the order of sums, and so the
    last bits."""
    import torch

    device, own = folder.record.get("device", {}), torch.get_num_threads()
    wanted = int(device.get("threads", own)) if device.get("type") == "cpu" else own
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(own)


@cache
def read_git_commit() -> str | None:
    """The commit of the program that runs, with "+" where tracked files were changed; None outside
    a checkout."""
    here = Path(__file__).parent
    commit = _run_git(here, "rev-parse", "HEAD")
    return commit and commit + (
        "+" if _run_git(here, "status", "--porcelain", "--untracked-files=no") else ""
    )


def _run_git(folder: Path, *arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _describe_model(plan: Plan) -> dict[str, Any]:
    model = plan.config["model"]
    folder = find_local_model(model)
    facts: dict[str, Any] = {"path": model["path"], "revision": model["revision"]}
    if folder is not None:
        weights = [path for path in list_model_files(folder) if path.suffix != ".json"]
        facts["sha256"] = {
            path.relative_to(folder).as_posix(): hash_weights(path) for path in weights
        }
    else:
        facts["commit"] = _find_cached_commit(model)
    return facts


def _find_cached_commit(model: dict[str, Any]) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model["path"], "model_index.json", revision=model["revision"])
    return Path(index).parent.name if isinstance(index, str) else None


def _describe_device(plan: Plan, pipe: Pipeline) -> dict[str, Any]:
    import torch

    from asyndm.networks import find_denoiser

    device = pipe._execution_device  # weights may lie elsewhere
    return {
        "type": device.type,
        "name": name_device(device),
        "dtype": str(find_denoiser(pipe).dtype).removeprefix("torch."),
        "threads": plan.config["model"].get("threads") or torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
