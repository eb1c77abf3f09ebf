"""Metrics whose networks stay loaded from one run of a process to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.metrics import Metric, ModelMetric

_kept: dict[str, tuple[dict[str, Any], ModelMetric[Any]]] = {}
"""By name: what the scores of each rested on when it was taken, and the metric. A network is what
its files were then, whatever lies there now."""


def take_metrics(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Those of the last run, loaded as they are, where these are the same; all others of it let go
    of their networks."""
    taken: dict[str, tuple[dict[str, Any], ModelMetric[Any]]] = {}
    for name, metric in metrics.items():
        if isinstance(metric, ModelMetric):
            same = name in _kept and _is_same(*_kept[name], metric)
            taken[name] = _kept.pop(name) if same else (metric.basis, metric)
    release_metrics()
    _kept.clear()
    _kept.update(taken)
    return {**metrics, **{name: metric for name, (_, metric) in taken.items()}}


def release_metrics(but: Metric | None = None) -> bool:
    """Lets go of the networks of all metrics but one, where memory is short.

    Returns:
        whether any was loaded.
    """
    others = [metric for _, metric in _kept.values() if metric is not but]
    return sum(metric.release() for metric in others) > 0  # of all, not only the first


def _is_same(basis: dict[str, Any], kept: ModelMetric[Any], metric: ModelMetric[Any]) -> bool:
    return type(kept) is type(metric) and (basis, kept.device) == (metric.basis, metric.device)
