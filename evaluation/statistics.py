"""How sure a mean is: bootstrap intervals clustered by prompt, Wilson's interval, paired
differences and their tests."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item", bound=tuple[Hashable, ...])
RESAMPLES = 4000
SEED = 20251004
GRID = 1 << 14
"""Of the permutation test: the steps in which sums that are no whole numbers are counted."""
FEW = 20
"""Clusters below which a percentile bootstrap covers too little: 4 give 81 % where 95 % are stated.
"""
MANY = 2_000
"""Clusters from which on sums are normal: what a bootstrap or a permutation test would find at
great cost is computed."""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and the interval that holds the true one with the stated confidence."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """`difference` is of the first minus the second, over the images both have; `p` of
    `permutation_p`."""

    difference: Interval
    wins: int
    losses: int
    p: float


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share: (p + z²/2n ± z√(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Raises:
        ValueError: n < 1, or more successes than n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a share")
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), successes / n
    scale = 1 + z * z / n
    centre, half = (
        (p + z * z / (2 * n)) / scale,
        z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale,
    )
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_clusters(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap of the mean that draws whole clusters: the images of a prompt stay
    together.

    Each resample draws as many clusters as there are, with replacement, and takes the mean of their
    values. The seed is fixed: equal data, equal interval. A single cluster says nothing of the
    spread: -inf to inf.

    Raises:
        ValueError: no values, or not one cluster for each.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters")
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    indices = np.array([numbers[cluster] for cluster in clusters])
    sums = np.bincount(indices, weights=np.asarray(values, dtype=float))
    counts = np.bincount(indices)
    mean = float(sums.sum() / counts.sum())
    if len(counts) == 1:
        return Interval(mean, -math.inf, math.inf, len(values))
    draws = _draw_resamples(len(counts), resamples)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(mean, float(low), float(high), len(values))


@lru_cache(maxsize=4)
def _draw_resamples(clusters: int, count: int) -> npt.NDArray[np.float64]:
    """How often each of `clusters` is drawn, in `count` resamples."""
    even = np.full(clusters, 1 / clusters)
    return np.random.default_rng(SEED).multinomial(clusters, even, count).astype(np.float64)


def cluster_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Interval:
    """The bootstrap over clusters; below `FEW` of them, where it is too narrow, and from `MANY` on,
    where both say the same, Student's t of the ratio of their sums.

    mean ± t_{k-1} √( k/(k-1) Σ (S_c - mean n_c)² ) / n, with S_c and n_c the sum and number of
    values of each of the k clusters.
    """
    k = len(set(clusters))
    if k == 1 or FEW <= k < MANY:
        return bootstrap_clusters(values, clusters, confidence)
    from scipy.stats import t

    mean = sum(values) / len(values)
    away: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        away[cluster] = away.get(cluster, 0.0) + value - mean
    spread = math.sqrt(k / (k - 1) * sum(d * d for d in away.values())) / len(values)
    half = float(t.ppf(0.5 + confidence / 2, k - 1)) * spread
    return Interval(mean, mean - half, mean + half, len(values))


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """95 % interval of a mean. Of right-or-wrong values it is Wilson's over prompts, where each
    prompt has one value or all prompts have the same mean (a bootstrap would claim certainty); else
    by clusters, within 0 and 1."""
    prompts, n = len(set(clusters)), len(values)
    binary, same = set(values) <= {0.0, 1.0}, _are_alike(values, clusters)
    if binary and (prompts == n or same):
        return replace(wilson(sum(values) * prompts / n, prompts), n=n)
    if same:
        return Interval(sum(values) / n, -math.inf, math.inf, n)
    interval = cluster_interval(values, clusters)
    if binary and math.isfinite(interval.low):
        return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))
    return interval


def difference_interval(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    binary: bool,
    confidence: float = 0.95,
) -> Interval:
    """The interval of a mean difference, by clusters.

    Prompts with the same mean difference say nothing of its spread. Of `binary` scores, right or
    wrong, at most the share h of prompts differs from them, h the upper end of Wilson's interval of
    none among the prompts; of others it is unknown.
    """
    if not _are_alike(differences, clusters):
        interval = cluster_interval(differences, clusters, confidence)
        if binary and math.isfinite(interval.low):
            return replace(interval, low=max(-1.0, interval.low), high=min(1.0, interval.high))
        return interval
    d, n = sum(differences) / len(differences), len(differences)
    if not binary:
        return Interval(d, -math.inf, math.inf, n)
    h = wilson(0, len(set(clusters)), confidence).high
    return Interval(d, d - h * (1 + d), d + h * (1 - d), n)


def _are_alike(values: Sequence[float], clusters: Sequence[Hashable]) -> bool:
    """Whether all clusters have the same mean, but for rounding."""
    totals: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        totals.setdefault(cluster, []).append(value)
    means = [sum(own) / len(own) for own in totals.values()]
    return max(means) - min(means) <= 1e-12 * max(map(abs, values))


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """The unweighted mean of K independent means, its interval made of theirs (MOVER, Zou and
    Donner 2008): each end is √Σ (mean_k - end_k)² / K away. It is right wherever theirs are, be
    they bootstrapped, Wilson's or Student's.

    Raises:
        ValueError: no intervals.
    """
    if not intervals:
        raise ValueError("no intervals to take the mean of")
    k = len(intervals)
    mean = sum(of.mean for of in intervals) / k
    below = math.hypot(*(of.mean - of.low for of in intervals)) / k
    above = math.hypot(*(of.high - of.mean for of in intervals)) / k
    return Interval(mean, mean - below, mean + above, sum(of.n for of in intervals))


def mean_over(
    scores: Mapping[Item, float], strata: Mapping[Item, Hashable] | None = None
) -> Interval:
    """`mean_interval` of scores whose keys begin with the prompt; with `strata`, of every key,
    `mean_of` those of the strata."""
    intervals = [
        mean_interval(list(own.values()), [key[0] for key in own])
        for own in _split_strata(scores, strata)
    ]
    return intervals[0] if strata is None else mean_of(intervals)


def compare_pairs(
    first: Mapping[Item, float],
    second: Mapping[Item, float],
    strata: Mapping[Item, Hashable] | None = None,
) -> Comparison | None:
    """Compares image by image. Keys begin with the prompt, which is the cluster. None: nothing in
    common.

    With `strata`, of every key, the difference is that of the unweighted means of the strata's
    means.
    """
    differences, binary = _subtract(first, second)
    if not differences:
        return None
    wins, losses = (
        sum(d > 0 for d in differences.values()),
        sum(d < 0 for d in differences.values()),
    )
    parts = _split_strata(differences, strata)
    common = math.lcm(*map(len, parts))  # whole numbers stay whole
    weighted = {
        key: d if strata is None else d * (common // len(own))
        for own in parts
        for key, d in own.items()
    }
    p = permutation_p(list(weighted.values()), [key[0] for key in weighted])
    return Comparison(_find_mean_difference(parts, binary), wins, losses, p)


def stands_out(
    best: Mapping[Item, float],
    others: Sequence[Mapping[Item, float]],
    strata: Mapping[Item, Hashable] | None = None,
) -> bool:
    """Whether the first is significantly the largest: the interval of its paired difference from
    each of the others is above 0, by Bonferroni at 1 - 0.05/k for k others, so that all of them
    hold together with 95 %. `strata` as in `compare_pairs`."""
    for other in others:
        differences, binary = _subtract(best, other)
        if not differences:
            return False
        if (
            _find_mean_difference(
                _split_strata(differences, strata), binary, 1 - 0.05 / len(others)
            ).low
            <= 0
        ):
            return False
    return bool(others)


def _subtract(
    first: Mapping[Item, float], second: Mapping[Item, float]
) -> tuple[dict[Item, float], bool]:
    """First minus second where both are, and whether all scores are right or wrong."""
    differences = {key: value - second[key] for key, value in first.items() if key in second}
    binary = {scores[key] for scores in (first, second) for key in differences} <= {0.0, 1.0}
    return differences, binary


def _split_strata(
    values: Mapping[Item, float], strata: Mapping[Item, Hashable] | None
) -> list[dict[Item, float]]:
    """The values of each stratum; all together where there are none."""
    parts: dict[Hashable, dict[Item, float]] = {}
    for key, value in values.items():
        parts.setdefault(None if strata is None else strata[key], {})[key] = value
    return list(parts.values())


def _find_mean_difference(
    parts: Sequence[Mapping[Item, float]], binary: bool, confidence: float = 0.95
) -> Interval:
    intervals = [
        difference_interval(list(own.values()), [key[0] for key in own], binary, confidence)
        for own in parts
    ]
    return intervals[0] if len(intervals) == 1 else mean_of(intervals)


def permutation_p(differences: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """p of the paired permutation test, two-sided: how often the mean difference is as large where
    the two methods change places in whole prompts.

    With a_c the sums of the prompts' differences, P(|Σ ±a_c| >= |Σ a_c|) over all signs. No draws:
    the distribution of the sum is built prompt by prompt, exactly where the sums are small whole
    numbers as those of right and wrong are, else in steps of Σ |a_c| / `GRID`. Of `MANY` prompts,
    which such steps would be too coarse for, the sum is normal with variance Σ a_c².

    Raises:
        ValueError: no differences, or not one cluster for each.
    """
    if not differences or len(differences) != len(clusters):
        raise ValueError(f"{len(differences)} differences for {len(clusters)} clusters")
    sums: dict[Hashable, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    away = np.array(list(sums.values()))
    if not away.any():
        return 1.0
    if (away != away.round()).any() or np.abs(away).sum() > GRID:
        if len(away) >= MANY:
            return math.erfc(abs(away.sum()) / math.sqrt(2 * (away @ away)))
        away = away / np.abs(away).sum() * GRID
    steps = away.round().astype(int)
    sizes = np.abs(steps)
    total, found = int(sizes.sum()), abs(int(steps.sum()))
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for size in sizes[sizes > 0]:
        chance[size:] += chance[:-size].copy()
        chance /= 2
    outcomes = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chance[outcomes >= found].sum()))


def find_one_sided_p(pair: Comparison, sign: int) -> float:
    """p of the same test with one direction: how often the mean difference is as far to this side.

    The signs of whole prompts make sums above 0 as often as below it: so it is p/2 where the
    difference has this sign. Where it has not, 1 is told, of which it falls short by less than a
    half.
    """
    return pair.p / 2 if sign * pair.difference.mean > 0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: with m of them in rising order, p'_(i) = max over j <= i of min(1, (m - j
    + 1) p_(j))."""
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
