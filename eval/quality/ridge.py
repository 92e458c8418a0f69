"""How well a linear map of a model's state predicts closeness: the yardstick for the exit rule."""

from dataclasses import dataclass

import numpy as np

from leap.encode.exits import FloatArray

PENALTIES = tuple(np.geomspace(1e-3, 1e4, 15).tolist())
FOLDS = 5


@dataclass(frozen=True)
class Ridge:
    """A linear map of vectors of H numbers to one.

    Attributes:
        mean: (H,) and scale: of the vectors it was fitted to, which are brought to mean 0 and size 1.
        weights: (H,) of the vectors so brought.
        constant: added to the result.
        penalty: of the squared weights, by cross-validation.
    """

    mean: FloatArray
    scale: float
    weights: FloatArray
    constant: float
    penalty: float

    def predict(self, vectors: FloatArray) -> FloatArray:
        """(N,) predictions for (N, H) vectors."""
        return (vectors - self.mean) / self.scale @ self.weights + self.constant


def fit_ridge(vectors: FloatArray, targets: FloatArray, seed: int = 0) -> tuple[Ridge, FloatArray]:
    """Fit by ridge regression, with the penalty of the least error in cross-validation.

    Args:
        vectors: (N, H).
        targets: (N,).
        seed: of the division into folds.

    Returns:
        The map, and (N,) what a map fitted without it predicts for each text.
    """
    vectors = vectors.astype(np.float64)
    fold = np.random.default_rng(seed).permutation(len(targets)) % FOLDS
    predictions = np.empty((len(PENALTIES), len(targets)))
    for number in range(FOLDS):
        out = fold == number
        for row, map_ in enumerate(_fit(vectors[~out], targets[~out], PENALTIES)):
            predictions[row, out] = map_.predict(vectors[out])
    best = int(((predictions - targets) ** 2).mean(axis=1).argmin())
    return _fit(vectors, targets, PENALTIES[best : best + 1])[0], predictions[best]


def _fit(vectors: FloatArray, targets: FloatArray, penalties: tuple[float, ...]) -> list[Ridge]:
    mean, constant = vectors.mean(axis=0), float(targets.mean())
    scale = float(np.sqrt(((vectors - mean) ** 2).sum(axis=1).mean()))
    left, singular, right = np.linalg.svd((vectors - mean) / scale, full_matrices=False)
    along = left.T @ (targets - constant)
    return [
        Ridge(mean, scale, right.T @ (along * singular / (singular**2 + penalty)), constant, penalty)
        for penalty in penalties
    ]
