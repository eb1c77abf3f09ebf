"""The command line of `experiments.run`: Hydra's, with settings and options in any order, and a few
options more."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from omegaconf import DictConfig

from asyndm.command import spell_commands
from asyndm.errors import UserError
from evaluation.choices import CONF
from evaluation.messages import QUIET, did_you_mean, hush_hub

DRY_RUN = "hydra.callbacks.check.dry_run"
NAME = "python -m experiments.run"


def start(task: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    """Runs Hydra on a command line, as `hydra.main` would.

    Args:
        task: does a job.
        arguments: settings and options, without the program's name.

    Raises:
        UserError: an option that does not exist, or lacks its value.
        SystemExit: all was said that was asked for, or Hydra's callbacks refuse the settings.
    """
    version.setbase("1.3")
    parser = _make_parser()
    asked = _parse(parser, arguments)
    if asked.dry_run:
        asked.overrides.append(f"{DRY_RUN}=true")
    if asked.help:
        asked.overrides.append(f"hydra.help.app_name='{spell_commands(NAME)}'")
    with _set_loudness(asked.quiet, asked.verbose), nullcontext() if asked.verbose else hush_hub():
        _run_hydra(
            args=asked,
            args_parser=parser,
            task_function=task,
            config_path=str(CONF),
            config_name="config",
        )


@contextmanager
def raise_hydra_errors() -> Iterator[None]:
    """Has Hydra raise its errors rather than print them, so that each can be told in one line."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _make_parser() -> ArgumentParser:
    parser = get_args_parser()
    parser.prog = spell_commands(NAME)
    parser.exit_on_error = False
    parser.add_argument("--dry-run", action="store_true", help="Print runs and costs, make nothing")
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="No progress: results and errors only"
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="Also what is checked and launched"
    )
    return parser


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    try:
        asked, unknown = parser.parse_known_intermixed_args(list(arguments))
    except ArgumentError as error:
        raise UserError(str(error)) from error
    if unknown:
        options = parser.format_usage().replace("[", " ").replace("]", " ").split()
        meant = did_you_mean(unknown[0], [option for option in options if option.startswith("-")])
        raise UserError(f"{unknown[0]}: no such option{meant}; see --help and --hydra-help")
    if asked.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun: give the same command again; finished runs are found"
        )
    for setting in asked.overrides:
        if setting.lstrip("+~").startswith("="):
            raise UserError(f"{setting}: no name before the =")
    return asked


@contextmanager
def _set_loudness(quiet: bool, verbose: bool) -> Iterator[None]:
    """How much is said meanwhile, here and by processes started here."""
    if quiet and verbose:
        raise UserError("--quiet and --verbose: choose one")
    before = os.environ.get(QUIET)
    root = logging.getLogger()
    level, handler = root.level, logging.StreamHandler(sys.stderr)
    if quiet:
        os.environ[QUIET] = "1"
    if verbose:
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        if quiet and before is None:
            del os.environ[QUIET]
