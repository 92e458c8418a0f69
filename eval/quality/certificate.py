"""P(error > tau) <= alpha, with confidence 1 - delta: exact binomial tests along a fixed sequence of rules.

Each rule of the sequence has a hypothesis: "more than a share alpha of the texts to come have an error above
tau". The number of such texts among n independent ones is binomial, so the hypothesis is rejected at level
delta when Clopper and Pearson's one-sided upper bound is at most alpha. The rules are tested one after the
other, in an order fixed before any text is seen, until the first that is not rejected: then the probability
that any true hypothesis was rejected is at most delta, however long the sequence (Bauer 1991; Angelopoulos et
al., "Learn then Test", arXiv 2110.01052).
"""

from typing import Any

import numpy as np
from scipy.stats import beta, binom

from leap.encode.exits import FloatArray, IntArray


def upper_bound(exceeding: IntArray, count: int, delta: float) -> FloatArray:
    """Clopper-Pearson's upper bound of a probability, of confidence 1 - delta.

    Args:
        exceeding: (...) how many of `count` independent texts exceed.
        count: n, at least 1.
        delta: in (0, 1).
    """
    exceeding = np.asarray(exceeding)
    with np.errstate(invalid="ignore"):
        return np.where(exceeding >= count, 1.0, beta.ppf(1 - delta, exceeding + 1, count - exceeding))


def passing(exceeding: IntArray, count: int, alpha: float, delta: float) -> IntArray:
    """How many rules of a sequence pass before the first that fails: (...) in [0, J].

    Args:
        exceeding: (..., J) texts above tau under each rule, in the order of the tests.
        count: n texts.
        alpha: bound on their share in the texts to come.
        delta: probability that the bound may fail.
    """
    # P(Binomial(n, alpha) <= k) <= delta if and only if the upper bound of k is at most alpha.
    passed = binom.cdf(exceeding, count, alpha) <= delta
    return np.logical_and.accumulate(passed, axis=-1).sum(axis=-1)


def check_promise(
    exceeds: FloatArray, *, alpha: float, delta: float, resamples: int, seed: int, batch: int = 100
) -> dict[str, Any]:
    """Repeat the certification on resamples of N texts, treated as the population, and count violations.

    Args:
        exceeds: (J, N) whether each text exceeds tau under each rule, in the order of the tests.
        alpha: see `passing`.
        delta: see `passing`.
        resamples: how many, of N texts each, drawn with replacement.
        seed: of the draws.
        batch: resamples at a time.

    Returns:
        `resamples`, `texts`; `broken`: in how many the share above tau of the rule found exceeds alpha among
        the N texts; `holding`, the share of the others; `nothing_found`: in how many no rule passed.
    """
    count = exceeds.shape[1]
    true = exceeds.mean(axis=1)
    random = np.random.default_rng(seed)
    columns, multiplicity = np.unique(exceeds, axis=1, return_counts=True)  # far fewer patterns than texts
    broken = nothing = 0
    for start in range(0, resamples, batch):
        drawn = random.multinomial(count, multiplicity / count, min(batch, resamples - start))
        found = passing(drawn @ columns.T.astype(np.int64), count, alpha, delta)
        nothing += int((found == 0).sum())
        broken += int((true[found[found > 0] - 1] > alpha).sum())
    return {
        "resamples": resamples,
        "texts": count,
        "broken": broken,
        "holding": 1 - broken / resamples,
        "nothing_found": nothing,
    }
