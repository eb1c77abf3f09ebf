"""Intervals against known numbers and simulated data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from evaluation.statistics import (
    MANY,
    bootstrap_clusters,
    cluster_interval,
    compare_pairs,
    difference_interval,
    find_one_sided_p,
    holm,
    mean_interval,
    mean_of,
    mean_over,
    permutation_p,
    stands_out,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_agrees_with_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = wilson(successes, n)
    assert interval.mean == successes / n
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


def test_the_bootstrap_agrees_with_the_normal_interval_for_single_images() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap_clusters(list(values), range(400))
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_images_of_a_prompt_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(60), 10)
    values = rng.normal(0, 1, 60)[clusters] + rng.normal(0, 0.1, 600)
    together, apart = (
        bootstrap_clusters(list(values), clusters.tolist()),
        bootstrap_clusters(list(values), range(600)),
    )
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered, trials = np.random.default_rng(2), 0, 300
    clusters = np.repeat(np.arange(50), 4).tolist()
    for _ in range(trials):
        values = np.repeat(rng.normal(0, 1, 50), 4) + rng.normal(0, 1, 200)
        interval = bootstrap_clusters(values.tolist(), clusters, resamples=500)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / trials <= 0.98


def measure_coverage(shared_noise: bool, trials: int = 250) -> float:
    """How often the interval of a paired difference of right-or-wrong scores holds the true one,
    where a method's gain depends on the noise as well as on the prompt: 100 prompts, 2 images each.
    """
    rng, hits = np.random.default_rng(5), 0
    for _ in range(trials):
        prompt, noise = (
            rng.normal(0, 0.5, (100, 1)),
            rng.normal(0, 0.5, (1, 2) if shared_noise else (100, 2)),
        )
        chance = rng.normal(0, 1, (100, 2))
        plain, ours = (chance + prompt > 0), (chance + prompt + noise > 0)
        differences = (ours.astype(float) - plain).ravel()
        interval = difference_interval(
            differences.tolist(), np.repeat(np.arange(100), 2).tolist(), True
        )
        hits += interval.low <= 0 <= interval.high
    return hits / trials


def test_the_interval_of_a_difference_covers_the_truth_where_prompts_have_noise_of_their_own() -> (
    None
):
    assert 0.92 <= measure_coverage(shared_noise=False) <= 0.98


def test_it_does_not_where_they_share_it() -> None:
    assert measure_coverage(shared_noise=True, trials=100) < 0.6


def test_what_stands_out_is_surely_better_than_each_of_the_others() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(0, 1, 80)
    scores = [
        {(i,): float(value) for i, value in enumerate(base + shift + rng.normal(0, 0.5, 80))}
        for shift in (1.0, 0.0, 0.9)
    ]
    assert stands_out(scores[0], [scores[1]])
    assert not stands_out(scores[0], scores[1:])
    assert not stands_out(scores[1], [scores[0]])
    assert not stands_out(scores[0], []) and not stands_out(scores[0], [{(-1,): 0.0}])


def test_no_row_stands_out_by_chance_more_often_than_said() -> None:
    rng, found, trials = np.random.default_rng(7), 0, 200
    for _ in range(trials):
        values = [{(i,): v for i, v in enumerate(rng.normal(0, 1, 40).tolist())} for _ in range(6)]
        best = max(range(6), key=lambda i: sum(values[i].values()))
        found += stands_out(values[best], [other for i, other in enumerate(values) if i != best])
    assert found / trials <= 0.05


@pytest.mark.parametrize("count", [3, 5, 12])
def test_few_clusters_are_covered_as_well(count: int) -> None:
    rng, trials = np.random.default_rng(3), 600
    clusters = np.repeat(np.arange(count), 6).tolist()
    covered = 0
    for _ in range(trials):
        values = np.repeat(rng.normal(0, 1, count), 6) + rng.normal(0, 1, 6 * count)
        interval = cluster_interval(values.tolist(), clusters)
        covered += interval.low <= 0 <= interval.high
    assert 0.92 <= covered / trials <= 0.98


def test_one_value_a_cluster_is_students_interval() -> None:
    values = [0.2, 0.9, 0.4, 0.7]
    interval = cluster_interval(values, range(4))
    half = 3.1824463 * np.std(values, ddof=1) / 2
    assert interval.low == pytest.approx(0.55 - half)
    assert interval.high == pytest.approx(0.55 + half)


@pytest.mark.parametrize(
    ("difference", "low", "high"), [(0, -0.1071, 0.1071), (1, 0.7857, 1), (-1, -1, -0.7857)]
)
def test_equal_differences_are_not_certainty(difference: int, low: float, high: float) -> None:
    interval = difference_interval([difference] * 64, [i // 2 for i in range(64)], True)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    assert math.isinf(difference_interval([0.0] * 9, range(9), False).high)


def test_equal_data_give_equal_intervals_whatever_the_names_of_the_prompts() -> None:
    values = [0.0, 1.0, 0.5, 0.25, 1.0, 0.0]
    first, second = (
        bootstrap_clusters(values, list("aabbcc")),
        bootstrap_clusters(values, list("xxyyzz")),
    )
    assert first == second and first.low < first.mean < first.high


def test_one_prompt_says_nothing_of_the_spread() -> None:
    interval = bootstrap_clusters([0.0, 1.0], ["a", "a"])
    assert (interval.low, interval.mean, interval.high) == (-math.inf, 0.5, math.inf)


def test_the_mean_of_right_and_wrong_is_wilsons_unless_prompts_repeat() -> None:
    assert mean_interval([1.0, 0.0, 1.0], ["a", "b", "c"]) == wilson(2, 3)
    assert mean_interval([1.0, 0.0, 1.0], ["a", "b", "b"]) != wilson(2, 3)
    assert mean_interval([0.5, 0.0, 1.0], ["a", "b", "c"]) != wilson(1, 3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_answers_to_a_few_prompts_are_not_certainty(value: float) -> None:
    interval, of_prompts = mean_interval([value] * 8, list("aabbccdd")), wilson(4 * value, 4)
    assert (interval.low, interval.high, interval.n) == (of_prompts.low, of_prompts.high, 8)
    assert interval.high - interval.low > 0.4


def test_pairs_are_joined_by_key() -> None:
    first = {("a", 0): 1.0, ("b", 0): 1.0, ("c", 0): 0.0, ("d", 0): 1.0}
    second = {("d", 0): 0.0, ("c", 0): 1.0, ("b", 0): 1.0, ("e", 0): 0.0}
    pair = compare_pairs(first, second)
    assert pair is not None
    assert (pair.wins, pair.losses, pair.difference.n) == (1, 1, 3)
    assert pair.difference.mean == 0
    assert compare_pairs(first, {("x", 0): 1.0}) is None


@pytest.mark.parametrize(
    "call", [lambda: wilson(2, 1), lambda: wilson(0, 0), lambda: bootstrap_clusters([], [])]
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]


def test_sign_flips_of_few_prompts_are_all_tried() -> None:
    assert permutation_p([1.0, 1.0, 1.0], ["a", "b", "c"]) == 2 / 8
    assert permutation_p([0.5, 0.5, 1.0, 1.0], ["a", "a", "b", "c"]) == 2 / 8
    assert permutation_p([0.0, 0.0], ["a", "b"]) == 1.0
    assert permutation_p([1.0, -1.0], ["a", "b"]) == 1.0
    with pytest.raises(ValueError, match="1 differences for 0 clusters"):
        permutation_p([1.0], [])


def test_sign_flips_are_counted_not_drawn() -> None:
    """10 wins and no loss: 2 of 2^10 ways. 12 wins, 2 losses: both ends of a binomial. Small ones
    have no floor."""
    assert permutation_p([1.0] * 10, range(10)) == 2 / 2**10
    assert permutation_p([1.0] * 12 + [-1.0] * 2, range(14)) == pytest.approx(
        2 * (1 + 14 + 91) / 2**14, rel=1e-12
    )
    assert permutation_p([1.0] * 60, range(60)) == pytest.approx(2.0**-59, rel=1e-12)
    assert permutation_p([0.25] * 30, range(30)) == pytest.approx(2.0**-29, rel=1e-9)


@pytest.mark.parametrize("prompts", [4, 40])
def test_prompts_that_all_balance_are_not_certainty(prompts: int) -> None:
    clusters = np.repeat(np.arange(prompts), 2).tolist()
    mean = mean_interval([1.0, 0.0] * prompts, clusters)
    assert (mean.low, mean.high) == (
        wilson(prompts / 2, prompts).low,
        wilson(prompts / 2, prompts).high,
    )
    interval = difference_interval([1.0, -1.0] * prompts, clusters, True)
    assert interval.low == -interval.high < -0.05
    assert math.isinf(mean_interval([0.25, 0.5] * prompts, clusters).low)
    better = {(i, j): float(j) for i in range(prompts) for j in (0, 1)}
    worse = dict.fromkeys(better, 0.0)
    assert stands_out(better, [worse]) is (prompts == 40)
    assert not stands_out(dict.fromkeys(better, 0.3), [dict.fromkeys(better, 0.1)])


def test_sign_flips_are_scipys_permutation_test() -> None:
    rng = np.random.default_rng(0)
    for prompts in (9, 60):
        sums = rng.normal(0.3, 1, prompts)
        found = permutation_p(sums.tolist(), range(prompts))
        wanted = permutation_test(
            (sums, np.zeros(prompts)),
            lambda x, y, axis: (x - y).mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=2**10 if prompts < 10 else 50_000,
            rng=1,
        ).pvalue
        assert found == pytest.approx(wanted, abs=1e-12 if prompts < 10 else 0.005)


def test_sign_flips_of_equal_methods_are_small_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    small = 0
    for _ in range(300):
        shift = np.repeat(rng.normal(size=25), 4)
        values = shift + rng.normal(size=100)
        small += permutation_p(values.tolist(), np.repeat(np.arange(25), 4).tolist()) <= 0.1
    assert 15 <= small <= 46


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    assert holm([0.001, 0.9, 0.02]) == pytest.approx([0.003, 0.9, 0.04])


def test_the_mean_of_kinds_is_unweighted_and_its_interval_that_of_a_bootstrap_within_kinds() -> (
    None
):
    rng, sizes = np.random.default_rng(8), {"one": 40, "two": 100, "count": 25}
    values = {kind: rng.normal(i, 1 + i, size) for i, (kind, size) in enumerate(sizes.items())}
    scores = {(f"{kind} {i}",): float(v) for kind, of in values.items() for i, v in enumerate(of)}
    kinds = {key: key[0].split()[0] for key in scores}
    found = mean_over(scores, kinds)
    resampled = [of[rng.integers(0, len(of), (4000, len(of)))].mean(1) for of in values.values()]
    low, high = np.quantile(np.mean(resampled, 0), [0.025, 0.975])
    assert found.mean == pytest.approx(np.mean([of.mean() for of in values.values()]), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found.n == 165 and mean_over(scores) == mean_interval(
        list(scores.values()), list(scores)
    )


def test_a_kind_that_says_nothing_of_its_spread_leaves_the_mean_of_kinds_unknown() -> None:
    scores = {("a", 0): 0.5, ("b", 0): 0.25, ("b", 1): 0.5, ("c", 0): 1.0}
    kinds = {key: "single" if key[0] == "a" else "pair" for key in scores}
    assert math.isinf(mean_over(scores, kinds).high)
    with pytest.raises(ValueError, match="no intervals"):
        mean_of([])


def test_kinds_count_alike_in_a_paired_difference_and_its_test() -> None:
    first = {(f"a{i}",): 1.0 for i in range(30)} | {(f"b{i}",): 0.0 for i in range(3)}
    second = dict.fromkeys(first, 0.0) | {(f"b{i}",): 1.0 for i in range(3)}
    kinds = {key: key[0][0] for key in first}
    plain, even = compare_pairs(first, second), compare_pairs(first, second, kinds)
    assert plain is not None and even is not None
    assert plain.difference.mean == pytest.approx(27 / 33) and even.difference.mean == 0
    assert plain.p < 1e-5 and even.p == 1.0 and (even.wins, even.losses) == (30, 3)
    assert stands_out(first, [second]) and not stands_out(first, [second], kinds)


@pytest.mark.fault(
    what="differences of 50,000 prompts, each smaller than a step of the permutation test's grid",
    kind="costs that grow too fast",
    now="their p is the normal one (it was 1), their interval Student's, at no cost in memory",
)
def test_tens_of_thousands_of_prompts_have_the_normal_p_and_interval() -> None:
    values = np.random.default_rng(9).normal(0.01, 1, 50_000)
    p = permutation_p(values.tolist(), range(len(values)))
    z = values.sum() / math.sqrt((values**2).sum())
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-9) and 0 < p < 0.5
    interval = cluster_interval(values.tolist(), range(len(values)))
    half = 1.95996 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=1e-5)
    assert interval.high == pytest.approx(values.mean() + half, abs=1e-5)


def test_where_bootstrap_and_students_t_meet_they_agree() -> None:
    values = np.random.default_rng(10).exponential(1, MANY).tolist()
    above, below = (
        cluster_interval(values, range(MANY)),
        bootstrap_clusters(values, range(MANY), resamples=1500),
    )
    width = below.high - below.low
    assert abs(above.low - below.low) < 0.05 * width and abs(above.high - below.high) < 0.05 * width


def test_a_one_sided_p_counts_the_sums_on_its_side_alone() -> None:
    away = [2.0, 1.0, -1.0, 3.0]
    first = {(f"p{i}", i): d for i, d in enumerate(away)}
    pair = compare_pairs(first, dict.fromkeys(first, 0.0))
    assert pair is not None
    sums = [
        sum(s * d for s, d in zip(signs, away, strict=True)) for signs in product((1, -1), repeat=4)
    ]
    wanted = sum(total >= sum(away) for total in sums) / len(sums)
    assert find_one_sided_p(pair, 1) == wanted
    assert find_one_sided_p(pair, -1) == 1.0
    back = compare_pairs(dict.fromkeys(first, 0.0), first)
    assert back is not None and find_one_sided_p(back, -1) == wanted
