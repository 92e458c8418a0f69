"""The exit rule of LEAP applied to stored per-layer embeddings.

One forward pass at full depth gives the embeddings of all layers; every threshold and first layer of a sweep
is then a matter of looking them up. A test holds these functions to what `LeapModel` itself does.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


def row_cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosines along the last axis of two arrays (..., H) of the same shape: (...). Of a zero vector: NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def successive_cosines(layers: FloatArray, patience: int = 1) -> FloatArray:
    """s_l = cos(p_l, p_(l-k)), the number that the exit rule compares with theta.

    Args:
        layers: (N, L, H) pooled embeddings p_1 .. p_L of N texts.
        patience: k, how many layers apart the compared embeddings are, in [1, L - 1].

    Returns:
        (N, L): s_l in column l - 1; NaN in the first k columns, which have nothing to be compared with.
    """
    cosines = np.full(layers.shape[:2], np.nan, dtype=layers.dtype)
    cosines[:, patience:] = row_cosines(layers[:, patience:], layers[:, :-patience])
    return cosines


def exit_layers(cosines: FloatArray, theta: float | None, min_exit_layer: int) -> IntArray:
    """The layer each text leaves at: the first l >= l_min with s_l >= theta, the last layer if there is none.

    Args:
        cosines: (N, L) from `successive_cosines`.
        theta: the threshold; None: all leave at the last layer.
        min_exit_layer: l_min, counted from 1, in [k + 1, L].

    Returns:
        (N,) layers, counted from 1.
    """
    count, depth = cosines.shape
    if theta is None:
        return np.full(count, depth)
    converged = cosines[:, min_exit_layer - 1 :] >= theta  # NaN, from a zero vector, never is
    converged[:, -1] = True
    return converged.argmax(axis=1) + min_exit_layer


def at_layers(layers: FloatArray, layer: IntArray) -> FloatArray:
    """(N, H): of `layers` (N, L, H), each text's embedding at its layer (N,), counted from 1."""
    return layers[np.arange(len(layers)), layer - 1]
