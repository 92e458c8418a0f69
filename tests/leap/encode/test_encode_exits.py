"""Cosines and unit vectors by hand, and thresholds in words."""

import numpy as np
import pytest

from leap.encode.exits import row_cosines, theta_text, unit_vectors


def test_cosines_of_rows_whatever_their_length() -> None:
    first = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    second = np.array([[0.0, 2.0], [9.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(row_cosines(first, second), [0, 1, np.sqrt(0.5)])


def test_a_zero_vector_has_no_cosine_and_stays_zero() -> None:
    vectors = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert np.isnan(row_cosines(vectors, vectors)).tolist() == [True, False]
    np.testing.assert_allclose(unit_vectors(vectors), [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("theta", "words"), [(0.5, "0.5"), (None, "none"), ([None, 0.25], "none, 0.25 by layer")]
)
def test_thresholds_in_words(theta: object, words: str) -> None:
    assert theta_text(theta) == words
