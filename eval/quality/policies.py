"""Ways to spend layers on N texts, exits and rivals alike: their cost and their error.

A policy gives each text one of several outcomes, each with an error and a cost in layers, by probabilities. A
coin is such a policy, so its errors are known exactly and need no flips.
"""

from dataclasses import dataclass

import numpy as np

from leap.encode.exits import FloatArray, IntArray
from leap.encode.metrics import STATISTICS, weighted_statistics


@dataclass(frozen=True)
class Policy:
    """The errors and costs of N texts.

    Attributes:
        errors: (N, K) error of each text under each of K outcomes.
        layers: (N, K) layers that it runs there.
        shares: (N, K) probability that it is the one; each row sums to 1.
    """

    errors: FloatArray
    layers: FloatArray
    shares: FloatArray

    def cost(self, units: FloatArray) -> float:
        """Mean cost per text; `units` (N,): the cost of one layer for each text, 1 or its tokens."""
        return float((units * (self.shares * self.layers).sum(axis=1)).mean())

    def statistics(self, counts: IntArray | None = None) -> FloatArray:
        """(R, 6): `STATISTICS` of the errors in each of R resamples that hold text i `counts[:, i]` times.

        Without counts (1, 6), of the texts as they are.
        """
        counts = np.ones((1, len(self.errors))) if counts is None else counts
        kept = self.shares.any(axis=0)  # outcomes that nobody has
        weights = counts[:, :, None] * self.shares[:, kept]
        return weighted_statistics(self.errors[:, kept].ravel(), weights.reshape(len(counts), -1))


def fixed(errors: FloatArray, layers: int) -> Policy:
    """All N texts run the same layers."""
    column = np.ones((len(errors), 1))
    return Policy(errors[:, None], layers * column, column)


def chosen(errors: FloatArray, layers: IntArray, taken: IntArray) -> Policy:
    """Text i takes the path `taken[i]`.

    Args:
        errors: (N, K) of each text on each path.
        layers: (K,) layers of each path.
        taken: (N,) in [0, K).
    """
    shares = np.zeros(errors.shape)
    shares[np.arange(len(taken)), taken] = 1
    return Policy(errors, np.broadcast_to(layers, errors.shape), shares)


def coin(cheap: Policy, dear: Policy, budget: float, units: FloatArray) -> Policy:
    """The mixture of two policies, alike for every text, that costs `budget`, or else the nearer policy."""
    low, high = cheap.cost(units), dear.cost(units)
    share = 0.0 if high <= low else float(np.clip((budget - low) / (high - low), 0, 1))
    return Policy(
        np.hstack([cheap.errors, dear.errors]),
        np.hstack([cheap.layers, dear.layers]),
        np.hstack([(1 - share) * cheap.shares, share * dear.shares]),
    )


def by_order(cheap: Policy, dear: Policy, score: FloatArray, budget: float, units: FloatArray) -> Policy:
    """Texts with the lowest scores get the expensive policy within the budget; the last one in part.

    Args:
        cheap: what the others get.
        dear: of more layers for every text.
        score: (N,).
        budget: mean cost of a text.
        units: see `Policy.cost`.
    """
    extra = units * ((dear.shares * dear.layers).sum(axis=1) - (cheap.shares * cheap.layers).sum(axis=1))
    order = np.argsort(score, kind="stable")
    left = len(units) * (budget - cheap.cost(units)) - (np.cumsum(extra[order]) - extra[order])
    share = np.empty(len(units))
    share[order] = np.clip(left / extra[order], 0, 1)
    return Policy(
        np.hstack([cheap.errors, dear.errors]),
        np.hstack([cheap.layers, dear.layers]),
        np.hstack([(1 - share[:, None]) * cheap.shares, share[:, None] * dear.shares]),
    )


def describe(policy: Policy, tokens: IntArray, counts: IntArray | None = None) -> dict[str, object]:
    """The figures of a policy.

    Args:
        policy: of N texts.
        tokens: (N,) of each.
        counts: (R, N) resamples for the intervals; None: no intervals.

    Returns:
        `layers` and `token_layers`, means of a text; `STATISTICS`; with `counts`, `intervals`: of each
        statistic 95 %, percentile bootstrap.
    """
    found = dict(zip(STATISTICS, policy.statistics()[0].tolist(), strict=True))
    costs = {"layers": policy.cost(np.ones(len(tokens))), "token_layers": policy.cost(tokens)}
    if counts is None:
        return costs | found
    return costs | found | {"intervals": intervals(policy.statistics(counts))}


def intervals(resampled: FloatArray) -> dict[str, list[float]]:
    """The 95 % percentile interval of each of `STATISTICS` over resamples (R, 6)."""
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return {name: [float(a), float(b)] for name, a, b in zip(STATISTICS, low, high, strict=True)}


def resamples(count: int, texts: int, seed: int) -> IntArray:
    """(count, texts): how often each text is in each bootstrap resample."""
    return np.random.default_rng(seed).multinomial(texts, np.full(texts, 1 / texts), count)
