"""From a composed choice, a mapping with ``_target_``, to an object of its class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from asyndm.errors import UserError, first_line, one_line
from evaluation.metrics import Metric

logging.getLogger("hydra").addHandler(logging.NullHandler())

CONF = Path(__file__).resolve().parent.parent / "conf"
NOT_BUILT_WITH = ("_target_", "name")


def settings(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a choice's class is built with."""
    return {key: value for key, value in choice.items() if key not in NOT_BUILT_WITH}


def build(choice: Mapping[str, Any], setting: str | None = None) -> Any:
    """An object of the class a choice stands for.

    Args:
        choice: with its ``_target_``.
        setting: where it is in the config, which a message on its class then begins with.

    Raises:
        UserError: there is no such class, it takes other settings, or it cannot be built with them.
    """
    from hydra.utils import get_object

    target = choice["_target_"]
    where = f"_target_={target}" if setting is None else f"{setting}._target_={target}"
    try:
        return get_object(target)(**settings(choice))
    except UserError:
        raise
    except (ImportError, TypeError) as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    except Exception as error:  # whatever a class of one's own raises
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}") from error


def build_metrics(choices: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a ``metric`` group, by their name in the scores; null stands for none.

    Raises:
        UserError: something that is no metric, or two of one name.
    """
    built: dict[str, Metric] = {}
    for key, choice in choices.items():
        if choice is None:
            continue
        if not isinstance(choice, Mapping) or "_target_" not in choice:
            raise UserError(
                f"metric.{key}={choice}: not a metric (no _target_); leave it out, or null for none"
            )
        metric = build(choice, f"metric.{key}")
        if not isinstance(metric, Metric):
            raise UserError(f"metric.{key}._target_={choice['_target_']}: not a Metric")
        if metric.name in built:
            raise UserError(
                f"metric.{key}: another metric is called {metric.name} as well; choose one of them"
            )
        built[metric.name] = metric
    return built


def described(target: str, config_dirs: Iterable[Path] = ()) -> str:
    """The first sentence of the docstring of a metric's class; nothing where no choice offers it.

    The name may come from a file that someone sent, and to import is to run: so it is looked up
    among the classes that ``conf/metric`` and these folders name, and no other is imported.

    Args:
        target: as in ``_target_``; anything else is no class.
        config_dirs: folders of the caller's own choices, beside ``conf``.

    Raises:
        UserError: a folder that is not there, or a choice in it that is no YAML.
    """
    from hydra.utils import get_object

    if not isinstance(target, str) or target not in offered((CONF, *config_dirs)):
        return ""
    try:
        return (get_object(target).__doc__ or "").strip().partition("\n")[0]
    except Exception:  # whatever its module raises when imported: a report needs no metric to run
        return ""


@cache
def offered(config_dirs: tuple[Path, ...]) -> frozenset[str]:
    """The classes that the metrics of these configuration folders stand for.

    Raises:
        UserError: as `described`.
    """
    targets: set[str] = set()
    for folder in config_dirs:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
        for path in sorted(folder.glob("metric/*.yaml")):
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise UserError(f"{path}: not a choice ({first_line(error, 'no YAML')})") from error
            choices = content.values() if isinstance(content, dict) else ()
            targets |= {
                str(choice.get("_target_")) for choice in choices if isinstance(choice, dict)
            }
    return frozenset(targets)
