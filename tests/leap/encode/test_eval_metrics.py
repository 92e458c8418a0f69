"""Spearman's correlation and its interval, by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from leap.encode.metrics import bootstrap_interval, spearman


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8.
    assert spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_spearman_with_ties_by_hand() -> None:
    # Ranks 1.5 1.5 3 against 1 2 3; centred -.5 -.5 1 and -1 0 1: 1.5 / sqrt(1.5 * 2).
    assert spearman([5, 5, 9], [1, 2, 3]) == pytest.approx(1.5 / np.sqrt(3))


def test_spearman_equals_scipys_row_by_row() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(9, size=(2, 5, 50))
    np.testing.assert_allclose(spearman(a, b), [spearmanr(*row).statistic for row in zip(a, b, strict=True)])


def test_interval_holds_the_estimate_and_repeats_with_its_seed() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=200)
    cosines = scores + random.normal(size=200)
    low, high = bootstrap_interval(cosines, scores, seed=3)
    assert low < spearman(cosines, scores) < high
    assert bootstrap_interval(cosines, scores, seed=3) == (low, high)
    assert bootstrap_interval(cosines, scores, seed=4) != (low, high)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of two independent samples the true correlation is 0."""
    random = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(*random.normal(size=(2, 60)), seed=seed, resamples=200)
        covered += low <= 0 <= high
    assert 180 <= covered <= 198
