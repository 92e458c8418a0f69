"""Learn-then-Test: choose a setting whose expected risk is bounded, with a probability told beforehand.

Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve
Risk Control", arXiv 2110.01052. For each setting of a path, a hypothesis says "the expected risk of this
setting exceeds alpha". p-values that hold for any number of losses, tested one after the other along a path
that was fixed before these losses were seen, bound the probability of rejecting any true hypothesis by delta,
however long the path is.
"""

import numpy as np
from scipy.stats import binom

from leap.encode.exits import FloatArray, IntArray


def hoeffding_bentkus(risk: FloatArray, count: int, alpha: float) -> FloatArray:
    """p-values of "the expected risk exceeds alpha" by Hoeffding's and Bentkus' inequality.

    Args:
        risk: (...) means of `count` losses in [0, 1], drawn independently.
        count: n, how many losses each mean is of.
        alpha: the bound asked about, in (0, 1).

    Returns:
        (...) p-values in [0, 1], the smaller of the two inequalities' each.
    """
    risk = np.asarray(risk, dtype=np.float64)
    below = np.minimum(risk, alpha)  # above alpha Hoeffding's says nothing: 1
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(below > 0, below * np.log(below / alpha), 0.0)  # its limit at 0
    divergence = left + (1 - below) * np.log((1 - below) / (1 - alpha))
    bentkus = np.e * binom.cdf(np.ceil(count * risk), count, alpha)
    return np.minimum(np.exp(-count * divergence), bentkus)


def fixed_sequence(p_values: FloatArray, delta: float) -> IntArray:
    """How many hypotheses a fixed sequence of tests rejects: those before the first p-value above delta.

    Args:
        p_values: (..., J), in the order of the tests, which must not depend on the data behind them.
        delta: the bound on the probability that a true hypothesis is among the rejected.

    Returns:
        (...) numbers in [0, J].
    """
    return np.logical_and.accumulate(p_values <= delta, axis=-1).sum(axis=-1)


def simulate(
    losses: FloatArray, *, count: int, alpha: float, delta: float, resamples: int, seed: int
) -> dict[str, int | float]:
    """Repeat the calibration on resamples and count how often the bound was broken after all.

    Args:
        losses: (J, N) in [0, 1], of N texts at J settings in the order of the tests. These texts are taken
            for all there are: their mean losses are the expected risks.
        count: n, texts of a resample, drawn with replacement.
        alpha: bound on the expected risk.
        delta: bound on the probability that the chosen setting breaks it.
        resamples: how many.
        seed: of the draws.

    Returns:
        `resamples`, `texts` (of each), `population` (N); `broken`: in how many the expected risk of the
        setting chosen exceeds alpha; `holding`, the share of the others; `nothing_chosen`: in how many not
        even the first setting passed.
    """
    expected = losses.mean(axis=1, dtype=np.float64)
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(losses.shape[1], 1 / losses.shape[1]), resamples
    )
    risks = draws.astype(np.float64) @ losses.T / count  # (resamples, J)
    chosen = fixed_sequence(hoeffding_bentkus(risks, count, alpha), delta)
    broken = int((expected[chosen[chosen > 0] - 1] > alpha).sum())
    return {
        "resamples": resamples,
        "texts": count,
        "population": losses.shape[1],
        "broken": broken,
        "holding": 1 - broken / resamples,
        "nothing_chosen": int((chosen == 0).sum()),
    }
