"""Policies and rivals of equal cost: worked out by hand, and a coin against flips of it."""

import numpy as np
import pytest

from eval.quality.policies import by_order, chosen, coin, describe, fixed, intervals, resamples
from leap.encode.metrics import error_statistics, weighted_statistics

LEAP = np.array([0.4, 0.1, 0.2, 0.3])
FULL = np.array([0.04, 0.01, 0.02, 0.03])
TOKENS = np.array([10, 20, 30, 40])
ONES = np.ones(4)


def test_a_rule_costs_and_errs_as_its_texts_do() -> None:
    policy = chosen(np.stack([LEAP, FULL], axis=1), np.array([3, 6]), np.array([1, 0, 0, 1]))
    found = describe(policy, TOKENS)
    assert found["layers"] == 4.5
    assert found["token_layers"] == (60 + 60 + 90 + 240) / 4
    assert found["mean"] == pytest.approx((0.04 + 0.1 + 0.2 + 0.03) / 4)
    assert (found["p99"], found["over_05"], found["over_10"], found["over_20"]) == (0.2, 0.5, 0.25, 0.0)


@pytest.mark.parametrize(("budget", "wanted"), [(3, 0.25), (4.5, 0.1375), (6, 0.025), (2, 0.25), (7, 0.025)])
def test_a_coin_of_equal_cost(budget: float, wanted: float) -> None:
    policy = coin(fixed(LEAP, 3), fixed(FULL, 6), budget, ONES)
    assert policy.statistics()[0, 0] == pytest.approx(wanted)
    assert policy.cost(ONES) == pytest.approx(min(max(budget, 3), 6))


def test_a_coin_has_the_distribution_of_its_flips() -> None:
    random = np.random.default_rng(0)
    leap, full = random.exponential(0.1, 900), random.exponential(0.01, 900)
    exact = coin(fixed(leap, 3), fixed(full, 6), 3.6, np.ones(900)).statistics()[0]
    flips = random.random((2000, 900)) < 0.2
    flipped = error_statistics(np.where(flips, full, leap).ravel())
    np.testing.assert_allclose(exact, list(flipped.values()), rtol=0.03, atol=0.002)


def test_the_lowest_scores_stay_as_far_as_the_budget_goes() -> None:
    leap, full = fixed(LEAP, 3), fixed(FULL, 6)
    half = by_order(leap, full, TOKENS, 3 + 3 * 2 / 4, ONES)  # the two shortest
    assert half.statistics()[0, 0] == pytest.approx((0.04 + 0.01 + 0.2 + 0.3) / 4)
    part = by_order(leap, full, -LEAP, 3 + 3 * 1.5 / 4, ONES)  # the worst, and the next in half of the cases
    assert part.statistics()[0, 0] == pytest.approx((0.04 + 0.1 + 0.2 + (0.3 + 0.03) / 2) / 4)
    assert part.cost(ONES) == pytest.approx(4.125)


def test_by_token_layers_short_texts_cost_little() -> None:
    leap, full = fixed(LEAP, 3), fixed(FULL, 6)
    budget = leap.cost(TOKENS) + 3 * (10 + 20) / 4
    policy = by_order(leap, full, TOKENS, budget, TOKENS)
    assert policy.shares[:, 1].tolist() == [1, 1, 0, 0]
    assert policy.cost(TOKENS) == pytest.approx(budget)


def test_quantiles_are_the_smallest_error_that_reaches_the_share() -> None:
    errors = np.arange(1, 101) / 1000
    assert error_statistics(errors)["p95"] == 0.095
    assert error_statistics(errors)["p99"] == 0.099
    double = weighted_statistics(np.array([1.0, 2.0]), np.array([[19.0, 1.0], [94.0, 6.0], [0.0, 1.0]]))
    assert double[:, 1].tolist() == [1.0, 2.0, 2.0]


def test_weights_count_as_repeats_do() -> None:
    errors = np.random.default_rng(1).exponential(0.1, 50)
    counts = resamples(3, 50, seed=2)
    found = weighted_statistics(errors, counts.astype(float))
    for row, times in zip(found, counts, strict=True):
        np.testing.assert_allclose(row, list(error_statistics(np.repeat(errors, times)).values()))


def test_intervals_cover_the_statistic_of_the_sample() -> None:
    errors = np.random.default_rng(1).exponential(0.1, 300)
    policy = fixed(errors, 3)
    found = describe(policy, np.ones(300), resamples(400, 300, seed=0))
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    assert intervals(np.ones((5, 6)))["mean"] == [1.0, 1.0]
