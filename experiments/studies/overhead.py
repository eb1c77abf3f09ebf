"""What a run costs beside sampling: planning, checks, hashes, traces, PNGs, CSVs, state, grid and
strip.

    python -m experiments.studies.overhead  # the embedded model, 64 images, three times each
    python -m experiments.studies.overhead limit=200 --repeats 5

Both sides use the same loaded model, prompts, seeds and batches, and take turns; each run begins in
an empty folder.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Sequence
from statistics import median
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asyndm.errors import UserError
from evaluation.choices import CONF
from evaluation.commands import Parser, command_line
from experiments.engine.hydra_messages import describe
from experiments.engine.plan import Plan, build_mask, make_plan
from experiments.engine.registration import register
from experiments.engine.sampling import load_model, make_sample_arguments
from experiments.run import run

DEFAULTS = ("limit=64", "metric=none")


def time_sampling(plan: Plan) -> float:
    """Seconds of the pictures alone: the library's `sample`, batch by batch, and nothing kept."""
    import torch

    from asyndm import sample

    pipe = load_model(plan)
    torch.set_num_threads(plan.config["model"].get("threads") or torch.get_num_threads())
    started = time.perf_counter()
    for _, batch in plan.batches(plan.config["batch_size"]):
        sample(
            pipe,
            [item.prompt.text for item in batch],
            [list(item.prompt.subjects) for item in batch],
            mask=build_mask(plan),
            seed=[item.seed for item in batch],
            batch_invariant=plan.config["batch_invariant"],
            **make_sample_arguments(plan),
        )
    return time.perf_counter() - started


def time_run(config: DictConfig, *settings: str) -> float:
    """Seconds of a whole run in an empty folder, with these settings changed."""
    with (
        TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        own = OmegaConf.from_dotlist([f"output_dir={folder}", *settings])
        changed = OmegaConf.merge(config, own)
        assert isinstance(changed, DictConfig)
        started = time.perf_counter()
        run(changed)
        return time.perf_counter() - started


def compose_config(settings: Sequence[str]) -> DictConfig:
    """The config of a run with these settings.

    Raises:
        UserError: no such choice or setting, or a text that cannot be read.
    """
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*DEFAULTS, *settings])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(describe(error)) from error


def read_study_command(
    name: str, doc: str | None, arguments: Sequence[str] | None
) -> tuple[list[str], int]:
    """Settings, and how often each side is timed, of the command line of such a study.

    Raises:
        UserError: less than once.
    """
    parser = Parser(name, doc)
    parser.add_argument(
        "settings", nargs="*", help="as for experiments.run, whose --cfg job shows them"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="times each side is timed"
    )
    chosen = parser.read(arguments)
    if chosen.repeats < 1:
        raise UserError(f"--repeats {chosen.repeats}: must be at least 1")
    return chosen.settings, chosen.repeats


@command_line(errors=(UserError,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    given, repeats = read_study_command("experiments.studies.overhead", __doc__, arguments)
    config = compose_config(given)
    plan = make_plan(config)
    time_run(config, "limit=2")  # what is done once in a process is done here
    times = [(time_sampling(plan), time_run(config)) for _ in range(repeats)]
    for alone, whole in times:
        print(f"sampling {alone:.2f} s, run {whole:.2f} s, ratio {whole / alone:.3f}")
    ratio = median(whole / alone for alone, whole in times)
    print(
        f"{len(plan.items)} images; median ratio {ratio:.3f}: "
        f"{1 - 1 / ratio:.1%} of a run is not sampling"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
