"""From a composed choice, a mapping with ``_target_``, to an object of its class."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from asyndm.errors import UserError, one_line
from evaluation.metrics import Metric

logging.getLogger("hydra").addHandler(logging.NullHandler())

NOT_BUILT_WITH = ("_target_", "name")


def settings(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a choice's class is built with."""
    return {key: value for key, value in choice.items() if key not in NOT_BUILT_WITH}


def build(choice: Mapping[str, Any], **more: Any) -> Any:
    """An object of the class a choice stands for.

    Raises:
        UserError: there is no such class, or it takes other settings.
    """
    from hydra.utils import get_object

    target = choice["_target_"]
    try:
        kind = get_object(target)
        return kind(**settings(choice), **more)
    except (ImportError, TypeError) as error:
        raise UserError(f"_target_={target}: {one_line(error)}") from error


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
        metric: Metric = build(choice)
        if metric.name in built:
            raise UserError(
                f"metric.{key}: another metric is called {metric.name} as well; choose one of them"
            )
        built[metric.name] = metric
    return built


def described(target: str) -> str:
    """The first sentence of the docstring of a class; nothing where there is no such class."""
    from hydra.utils import get_object

    try:
        return (get_object(target).__doc__ or "").strip().partition("\n")[0]
    except Exception:  # whatever its module raises when imported: a report needs no metric to run
        return ""
