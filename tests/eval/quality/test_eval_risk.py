"""Learn-then-Test: p-values against MAPIE's, the sequence of tests by hand, the guarantee by simulation."""

import numpy as np
import pytest

from eval.quality.risk import fixed_sequence, hoeffding_bentkus, simulate


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("count", [10, 137, 2000])
def test_p_values_are_those_of_mapie(count: int, alpha: float) -> None:
    mapie = pytest.importorskip("mapie.risk_control.methods")
    risk = np.array([0.0, 0.001, 0.0095, 0.02, 0.049, 0.05, 0.2, 0.31, 0.9])
    wanted = mapie.compute_hoeffding_bentkus_p_value(risk, count, alpha)[:, 0]
    np.testing.assert_allclose(hoeffding_bentkus(risk, count, alpha), wanted, rtol=1e-9)


def test_p_values_by_hand() -> None:
    # Without any loss Hoeffding's is (1 - alpha)^n, which is below Bentkus' e (1 - alpha)^n.
    assert hoeffding_bentkus(0.0, 45, 0.05) == pytest.approx(0.95**45)
    assert hoeffding_bentkus(np.array([[0.05], [0.4]]), 100, 0.05).tolist() == [[1.0], [1.0]]


def test_the_sequence_ends_at_the_first_that_fails() -> None:
    p_values = np.array([[0.1, 0.05, 0.2, 0.01], [0.3, 0.0, 0.0, 0.0], [0.0, 0.1, 0.1, 0.1]])
    assert fixed_sequence(p_values, 0.1).tolist() == [2, 0, 4]


def test_the_guarantee_holds_in_simulation() -> None:
    """Of 1,000 calibrations on 300 texts each, at most a share delta chooses a setting of too high a risk."""
    rng, alpha, delta, resamples = np.random.default_rng(0), 0.1, 0.1, 1000
    # 40 settings from strict to loose: a text's loss is 0 until it leaves, then of its own size.
    leaves, size = rng.random(10_000), rng.beta(1.5, 6, 10_000)
    losses = np.where(leaves[:, None] < np.linspace(0.05, 0.95, 40), size[:, None], 0).astype(np.float32)
    expected = losses.mean(axis=0)
    assert expected[0] < alpha < expected[-1]
    found = simulate(losses.T, count=300, alpha=alpha, delta=delta, resamples=resamples, seed=1)
    error = 3 * np.sqrt(delta * (1 - delta) / resamples)
    assert found["broken"] / resamples <= delta + error
    assert found["holding"] == 1 - found["broken"] / resamples
    assert found["nothing_chosen"] < 0.01 * resamples  # and it does choose
    # What it is there for: the loosest setting whose observed risk is below alpha breaks the bound.
    risk = losses[rng.integers(len(losses), size=(resamples, 300))].mean(axis=1)  # (1000, 40)
    chosen = (risk <= alpha).sum(axis=1)
    assert (expected[chosen[chosen > 0] - 1] > alpha).mean() > delta + error
