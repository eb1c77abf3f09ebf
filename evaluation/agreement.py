"""Does a metric agree with the truth? Rank correlation and pairwise accuracy, with intervals over
prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from evaluation.statistics import SEED, Interval, mean_interval

RESAMPLES = 1000


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
    indices = np.array([numbers[prompt] for prompt in prompts])
    members = [np.flatnonzero(indices == i) for i in range(len(numbers))]
    if len(members) == 1:
        return Interval(rho, -math.inf, math.inf, len(x))
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if (drawn := _spearman(x[rows], y[rows])) is not None:
            found.append(drawn)
    low, high = np.quantile(found, [0.025, 0.975]) if found else (-math.inf, math.inf)
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


def _spearman(
    x: np.ndarray[tuple[int], np.dtype[np.float64]], y: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> float | None:
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else None
