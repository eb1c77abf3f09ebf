"""From a composed choice, a mapping with ``_target_``, to an object of its class."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from asyndm.errors import UserError, join_lines, read_first_line
from evaluation.messages import did_you_mean
from evaluation.metrics import Metric

CONF = Path(__file__).resolve().parent.parent / "conf"
NOT_BUILT_WITH = ("_target_", "name")


def read_arguments(choice: Mapping[str, Any]) -> dict[str, Any]:
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
    target = choice["_target_"]
    where = f"_target_={target}" if setting is None else f"{setting}._target_={target}"
    try:
        found = find_object(target)
        _check_names(found, read_arguments(choice), setting)
        return found(**read_arguments(choice))
    except UserError:
        raise
    except (ImportError, TypeError) as error:
        raise UserError(f"{where}: {join_lines(error)}") from error
    except Exception as error:  # whatever a class of one's own raises
        raise UserError(f"{where}: {type(error).__name__}: {join_lines(error)}") from error


def _check_names(found: Any, given: Mapping[str, Any], setting: str | None) -> None:
    """Refuses a setting that a class does not have, where it says which it has."""
    if not isinstance(found, type):
        return
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    unknown = [name for name in given if name not in parameters]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        begin = f"{setting}." if setting else ""
        wrong, known = begin + unknown[0], [begin + name for name in parameters]
        has = f"; it has {', '.join(parameters)}" if parameters else ""
        raise UserError(
            f"{wrong}: no such setting of {found.__name__}{did_you_mean(wrong, known)}{has}"
        )


def find_object(path: str) -> Any:
    """What a dotted name stands for: a class or function of a module, or an attribute of one.

    Raises:
        ImportError: no such module or attribute, or a module that cannot be imported.
        ValueError: no dotted name.
    """
    if path == "":
        raise ImportError("Empty path")
    first, *rest = path.split(".")
    if not all([first, *rest]):
        raise ValueError(f"Error loading '{path}': invalid dotstring.")
    try:
        found: Any = import_module(first)
    except Exception as error:  # whatever a module of one's own raises
        raise ImportError(
            f"Error loading '{path}': {error!r} Are you sure that module '{first}' is installed?"
        ) from error
    within = first
    for part in rest:
        found = _find_part(path, found, within, part)
        within = f"{within}.{part}"
    return found


def _find_part(path: str, owner: Any, within: str, part: str) -> Any:
    """An attribute of a module or class, or a module that nothing has imported yet."""
    try:
        return getattr(owner, part)
    except AttributeError as error:
        if not isinstance(owner, ModuleType):
            raise ImportError(
                f"Error loading '{path}': "
                f"{error!r} Are you sure that '{part}' is an attribute of '{within}'?"
            ) from error
    try:
        return import_module(f"{within}.{part}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Error loading '{path}': {error!r} Are you sure that '{part}' is importable from "
            f"module '{within}'?"
        ) from error
    except Exception as error:  # as above
        raise ImportError(f"Error loading '{path}': {error!r}") from error


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


def summarize_class(target: str, config_dirs: Iterable[Path] = ()) -> str:
    """The first paragraph of the docstring of a metric's class; nothing where no choice offers it.

    The name may come from a file that someone sent, and to import is to run: so it is looked up
    among the classes that ``conf/metric`` and these folders name, and no other is imported.

    Args:
        target: as in ``_target_``; anything else is no class.
        config_dirs: folders of the caller's own choices, beside ``conf``.

    Raises:
        UserError: a folder that is not there, or a choice in it that is no YAML.
    """
    if not isinstance(target, str) or target not in list_targets((CONF, *config_dirs)):
        return ""
    try:
        text = inspect.cleandoc(find_object(target).__doc__ or "").partition("\n\n")[0]
        return " ".join(text.split())
    except Exception:  # whatever its module raises when imported: a report needs no metric to run
        return ""


@cache
def list_targets(config_dirs: tuple[Path, ...]) -> frozenset[str]:
    """The classes that the metrics of these configuration folders stand for.

    Raises:
        UserError: as `summarize_class`.
    """
    targets: set[str] = set()
    for folder in config_dirs:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
        for path in sorted(folder.glob("metric/*.yaml")):
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise UserError(
                    f"{path}: not a choice ({read_first_line(error, 'no YAML')})"
                ) from error
            choices = content.values() if isinstance(content, dict) else ()
            targets |= {
                str(choice.get("_target_")) for choice in choices if isinstance(choice, dict)
            }
    return frozenset(targets)
