"""Spearman's correlation of cosines, the score of sentence similarity, and its interval."""

import numpy as np
from numpy.typing import ArrayLike

from leap.encode.exits import FloatArray, row_cosines


def spearman(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Spearman's rank correlation along the last axis, in [-1, 1]; ties share their mean rank.

    Args:
        a: (..., N) numbers.
        b: (..., N) numbers.

    Returns:
        (...) correlations; NaN where all numbers of one side are the same.
    """
    from scipy.stats import rankdata  # here: it takes a second to load, and training may not need it

    ranks = [rankdata(side, axis=-1) for side in (a, b)]
    first, second = (side - side.mean(axis=-1, keepdims=True) for side in ranks)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1))


def bootstrap_interval(
    cosines: FloatArray, scores: FloatArray, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of `spearman(cosines, scores)`, pairs drawn with replacement.

    Args:
        cosines: (N,) cosines.
        scores: (N,) gold similarities.
        seed: of the draws; the same seed draws the same pairs for every model, so intervals can be compared.
        resamples: number of draws.
        level: probability that the interval is to cover.
    """
    draws = np.random.default_rng(seed).integers(len(scores), size=(resamples, len(scores)))
    values = spearman(cosines[draws], scores[draws])
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def distances(embeddings: FloatArray, reference: FloatArray) -> FloatArray:
    """(N,) float64 in [0, 2]: 1 - cosine of N embeddings (N, H) to their references; 1 of a zero vector."""
    cosines = row_cosines(embeddings.astype(np.float64), reference.astype(np.float64))
    return np.clip(1 - np.nan_to_num(cosines, nan=0.0), 0, 2)


STATISTICS = ("mean", "p95", "p99", "over_05", "over_10", "over_20")


def error_statistics(errors: FloatArray, weights: FloatArray | None = None) -> dict[str, float]:
    """`STATISTICS` of a distribution of errors: mean, two quantiles, and the shares above 0.05, 0.1 and 0.2.

    Args:
        errors: (N,) errors.
        weights: (N,) of each of them, not all 0; None: all alike.
    """
    weights = np.ones(len(errors)) if weights is None else weights
    found = weighted_statistics(errors, weights[None])[0]
    return dict(zip(STATISTICS, found.tolist(), strict=True))


def weighted_statistics(errors: FloatArray, weights: FloatArray) -> FloatArray:
    """(R, 6): `STATISTICS` of errors (N,) under each of R weightings (R, N).

    A quantile is the smallest error whose share of the weight, together with all smaller ones, reaches it.
    """
    order = np.argsort(errors, kind="stable")
    errors, weights = errors[order], weights[:, order]
    reached = np.cumsum(weights, axis=1)
    total = reached[:, -1:]
    columns = [(weights @ errors) / total[:, 0]]
    for quantile in (0.95, 0.99):
        at = (reached < quantile * total - 1e-9).sum(axis=1)
        columns.append(errors[np.minimum(at, len(errors) - 1)])
    columns += [weights[:, errors > bound].sum(axis=1) / total[:, 0] for bound in (0.05, 0.1, 0.2)]
    return np.stack(columns, axis=1)
