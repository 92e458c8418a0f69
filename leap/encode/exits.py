"""The exit rule of LEAP applied to stored per-layer embeddings.

One forward pass at full depth gives the embeddings of all layers; every threshold and first layer of a sweep
is then a matter of looking them up. A test holds these functions to what `LeapModel` itself does.
"""

import numpy as np
from numpy.typing import NDArray

from configuration_leap import ExitThreshold

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


def exit_layers(cosines: FloatArray, theta: ExitThreshold, min_exit_layer: int) -> IntArray:
    """The layer each text leaves at: the first l >= l_min with s_l >= theta, the last layer if there is none.

    Args:
        cosines: (N, L) from `successive_cosines`.
        theta: the threshold; or L, one a layer, with None where nothing leaves; None: all leave at the last.
        min_exit_layer: l_min, counted from 1, in [k + 1, L].

    Returns:
        (N,) layers, counted from 1.
    """
    # In the type of the cosines, as torch compares them; None becomes NaN.
    thetas = np.broadcast_to(np.asarray(theta, dtype=cosines.dtype), cosines.shape[1])
    # False where either is NaN: no threshold there, or the cosine of a zero vector.
    converged = cosines[:, min_exit_layer - 1 :] >= thetas[min_exit_layer - 1 :]
    converged[:, -1] = True
    return converged.argmax(axis=1) + min_exit_layer


def at_layers(layers: FloatArray, layer: IntArray) -> FloatArray:
    """(N, H): of `layers` (N, L, H), each text's embedding at its layer (N,), counted from 1."""
    return layers[np.arange(len(layers)), layer - 1]


def unit_vectors(layers: FloatArray) -> FloatArray:
    """`layers` (..., H), each vector divided by its length; zero vectors stay zero."""
    return layers / np.maximum(np.linalg.norm(layers, axis=-1, keepdims=True), 1e-12)


def pair_cosines(layers: FloatArray) -> FloatArray:
    """The cosine of a pair whose first text left at one layer and whose second text left at another.

    Args:
        layers: (2N, L, H) embeddings of the N first texts, then of the N second ones.

    Returns:
        (N, L, L): in [:, l - 1, m - 1] with the first text at layer l, the second at layer m.
    """
    first, second = np.split(unit_vectors(layers), 2)
    return first @ second.swapaxes(1, 2)


def theta_text(theta: float | list[float | None] | None) -> str:
    """A threshold for reading: a number, or one a layer."""
    if isinstance(theta, list):
        return ", ".join("none" if value is None else f"{value:g}" for value in theta) + " by layer"
    return "none" if theta is None else f"{theta:g}"
