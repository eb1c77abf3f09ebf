"""Does a metric agree with the truth? Rank correlation and pairwise accuracy, with intervals over
prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluation.statistics import SEED, Interval, mean_interval

RESAMPLES = 1000
PARTS = 20
"""In which resamples are computed, for memory."""
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def rank_correlation(
    values: Sequence[float], truths: Sequence[float], prompts: Sequence[Hashable]
) -> Interval | None:
    """Spearman's ρ of values and truths over all images, ties sharing their mean rank, and its 95 %
    percentile interval from a bootstrap that draws whole prompts with replacement.

    None where values or truths are all alike: there is no ranking to agree with.

    Raises:
        ValueError: not one truth and prompt for each value.
    """
    x, y = np.asarray(values, dtype=float), np.asarray(truths, dtype=float)
    if not len(x) == len(y) == len(prompts):
        raise ValueError(f"{len(x)} values, {len(y)} truths, {len(prompts)} prompts")
    rho = _spearman(x, y)
    if rho is None:
        return None
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    if len(numbers) == 1:
        return Interval(rho, -math.inf, math.inf, len(x))
    indices = np.array([numbers[prompt] for prompt in prompts])
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(numbers), size=(RESAMPLES, len(numbers)))
    found = np.concatenate(
        [_spearman_of_drawn(x, y, indices, part) for part in np.array_split(drawn, PARTS)]
    )
    if not len(found):
        return Interval(rho, -math.inf, math.inf, len(x))
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(rho, float(low), float(high), len(x))


def pairwise_accuracy(
    values: Sequence[float], truths: Sequence[float], prompts: Sequence[Hashable]
) -> Interval | None:
    """Of all pairs of images of one prompt of which one is better in truth, the share that the
    metric ranks so; a tie counts half. 0.5 is chance. The interval is by prompts, within 0 and 1,
    unknown where all are ties; its `n` is the number of pairs.

    None where no prompt has such a pair.

    Raises:
        ValueError: not one truth and prompt for each value.
    """
    groups: dict[Hashable, list[tuple[float, float]]] = {}
    for value, truth, prompt in zip(values, truths, prompts, strict=True):
        groups.setdefault(prompt, []).append((value, truth))
    wins, whose = [], []
    for prompt, group in groups.items():
        for i, (a, better) in enumerate(group):
            for b, worse in group[:i]:
                if better != worse:
                    wins.append(0.5 if a == b else float((a > b) == (better > worse)))
                    whose.append(prompt)
    if not wins:
        return None
    if set(wins) == {0.5}:
        return Interval(0.5, -math.inf, math.inf, len(wins))
    interval = mean_interval(wins, whose)
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _spearman(x: Floats, y: Floats) -> float | None:
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else None


def _spearman_of_drawn(x: Floats, y: Floats, prompts: Integers, drawn: Integers) -> Floats:
    """ρ of each resample in which neither values nor truths are all alike.

    Args:
        drawn: prompts, a row for each resample.
    """
    rows = np.arange(len(drawn))[:, None]
    times = np.zeros((len(drawn), prompts.max() + 1))
    np.add.at(times, (rows, drawn), 1)
    weights = times[:, prompts]
    a, b = _centre_ranks(x, weights), _centre_ranks(y, weights)
    spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    found: Floats = (weights * a * b).sum(1)[spread > 0] / spread[spread > 0]
    return found


def _centre_ranks(values: Floats, weights: Floats) -> Floats:
    """The rank of each value less the mean rank, ties sharing theirs, where each value is there as
    often as a row of the weights says."""
    order = np.argsort(values, kind="stable")
    _, starts, inverse = np.unique(values[order], return_index=True, return_inverse=True)
    alike = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(alike, axis=1) - (alike - 1) / 2
    found = np.empty_like(weights)
    found[:, order] = ranks[:, inverse] - (weights.sum(1, keepdims=True) + 1) / 2
    return found
