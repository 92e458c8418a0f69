"""Cosines and unit vectors of stored embeddings, and thresholds in words."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


def row_cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosines along the last axis of two arrays (..., H) of the same shape: (...). Of a zero vector: NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def unit_vectors(layers: FloatArray) -> FloatArray:
    """`layers` (..., H), each vector divided by its length; zero vectors stay zero."""
    return layers / np.maximum(np.linalg.norm(layers, axis=-1, keepdims=True), 1e-12)


def theta_text(theta: float | list[float | None] | None) -> str:
    """A threshold for reading: a number, or one a layer."""
    if isinstance(theta, list):
        return ", ".join("none" if value is None else f"{value:g}" for value in theta) + " by layer"
    return "none" if theta is None else f"{theta:g}"
