"""Agreement with the truth, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from evaluation.agreement import RESAMPLES, pairwise_accuracy, rank_correlation
from evaluation.statistics import SEED


def test_the_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 2, 200).astype(float)
    values = np.round(truths + rng.normal(size=200), 1)
    found = rank_correlation(values.tolist(), truths.tolist(), [i // 4 for i in range(200)])
    assert found is not None and found.mean == pytest.approx(
        spearmanr(values, truths).statistic, abs=1e-12
    )
    assert found.low < found.mean < found.high and found.n == 200


def test_the_interval_of_the_correlation_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)

    def draw(prompts: int) -> tuple[list[float], list[float], list[int]]:
        shift = np.repeat(rng.normal(size=prompts), 4)
        truths = (rng.normal(size=4 * prompts) + shift > 0).astype(float)
        values = truths + shift + rng.normal(size=4 * prompts)
        return values.tolist(), truths.tolist(), np.repeat(np.arange(prompts), 4).tolist()

    values, truths, _ = draw(50_000)
    population = spearmanr(values, truths).statistic
    covered = 0
    for _ in range(60):
        found = rank_correlation(*draw(60))
        assert found is not None
        covered += int(found.low <= population <= found.high)
    assert covered >= 51


def test_the_interval_is_that_of_scipys_correlations_of_drawn_prompts() -> None:
    rng = np.random.default_rng(2)
    prompts = rng.permutation(np.repeat(np.arange(12), 3))
    truths = rng.integers(0, 2, 36).astype(float)
    values = np.round(truths + rng.normal(size=36), 1)
    found = rank_correlation(values.tolist(), truths.tolist(), prompts.tolist())
    names = list(dict.fromkeys(prompts.tolist()))
    drawing, drawn = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        rows = [
            row
            for i in drawing.integers(len(names), size=len(names))
            for row in np.flatnonzero(prompts == names[i])
        ]
        drawn.append(spearmanr(values[rows], truths[rows]).statistic)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(
        tuple(np.nanquantile(drawn, [0.025, 0.975])), abs=1e-12
    )


def test_pairs_are_of_one_prompt_and_ties_count_half() -> None:
    values, truths = [0.9, 0.1, 0.5, 0.5, 0.0, 0.3], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    found = pairwise_accuracy(values, truths, ["a", "a", "b", "b", "c", "c"])
    assert found is not None and found.mean == pytest.approx(0.75) and found.n == 2
    crossed = pairwise_accuracy(values, truths, ["a", "b", "b", "a", "a", "b"])
    assert (
        crossed is not None
        and crossed.mean == pytest.approx(np.mean([1, 0, 1, 1]))
        and crossed.n == 4
    )
    assert 0 <= crossed.low < crossed.mean < crossed.high <= 1
    always = pairwise_accuracy(
        [1.0, 0.0] * 30, [1.0, 0.0] * 30, np.repeat(np.arange(30), 2).tolist()
    )
    assert (
        always is not None
        and (always.mean, always.high, always.n) == (1.0, 1.0, 30)
        and always.low < 0.9
    )
    ties = pairwise_accuracy([1.0, 1.0], [1.0, 0.0], ["a", "a"])
    assert ties is not None and (ties.mean, ties.low) == (0.5, -np.inf)
    assert pairwise_accuracy([1.0, 0.0], [1.0, 1.0], ["a", "a"]) is None
    assert rank_correlation([1.0, 0.0], [1.0, 1.0], ["a", "b"]) is None
    single = rank_correlation([1.0, 0.0], [1.0, 0.0], ["a", "a"])
    assert single is not None and (single.mean, single.low) == (1.0, -np.inf)
