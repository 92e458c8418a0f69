"""The paper's own question: pairs under exits that leave the network, beside cuts of the same mean depth.

Of models in the paper's form, without a landing layer, as the studies train them; `front` is for those with
one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from leap.encode.encoder import Encoder, encode_layers
from leap.encode.exits import FloatArray, IntArray, exit_layers, pair_cosines, row_cosines, successive_cosines
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import StsData

# Finer where it matters: in a model trained to converge, successive layers are mostly above 0.9 alike.
DEFAULT_THETAS = tuple(
    np.round(
        [*np.arange(0.50, 0.90, 0.02), *np.arange(0.90, 0.99, 0.005), *np.arange(0.99, 0.9995, 0.001)], 4
    ).tolist()
)
# Of all texts' s_l at a layer, the share above its threshold: from nothing leaves to all leave.
SHARES = (None, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def embed_pairs(
    encoder: Encoder, data: StsData, *, batch_size: int = 64, progress: bool = False
) -> FloatArray:
    """(2N, L, H): every layer's embeddings of the N first sentences, then of the N second ones."""
    texts = data.first + data.second
    return encode_layers(encoder, texts, batch_size=batch_size, progress=data.name if progress else None)


class DepthScores:
    """The figures of pairs under any exit rule, looked up in the stored embeddings of their sentences.

    Args:
        layers: (2N, L, H), from `embed_pairs`.
        scores: (N,) gold similarity.
        patience: k, as in `successive_cosines`.

    Attributes:
        cosines: (2N, L), s_l.
        static: for each `layer` the figures of a cut after it, `spearman`, and of the cosines to the last
            layer's embeddings the mean, `fidelity_mean`, and the 5th percentile, `fidelity_p5`.
    """

    def __init__(self, layers: FloatArray, scores: FloatArray, patience: int) -> None:
        self.cosines = successive_cosines(layers, patience)
        self._scores = scores
        self._fidelity = row_cosines(layers, layers[:, -1:])  # (2N, L)
        self._pairs = pair_cosines(layers)
        self._depths = range(1, layers.shape[1] + 1)
        self.static = [{"layer": layer, **self._score(np.full(len(layers), layer))} for layer in self._depths]

    def _score(self, left: IntArray) -> dict[str, float]:
        """The three figures when the 2N sentences leave at layers `left` (2N,)."""
        first, second = np.split(left - 1, 2)
        kept = self._fidelity[np.arange(len(left)), left - 1]
        return {
            "spearman": float(spearman(self._pairs[np.arange(len(first)), first, second], self._scores)),
            "fidelity_mean": float(kept.mean()),
            "fidelity_p5": float(np.quantile(kept, 0.05)),
        }

    def measure(self, theta: float | list[float | None], first_layer: int) -> dict[str, Any]:
        """A point: the rule and what it gives, beside static cuts of the same mean depth."""
        left = exit_layers(self.cosines, theta, first_layer)
        mean, figures = float(left.mean()), self._score(left)
        beside = {
            key: float(np.interp(mean, self._depths, [cut[key] for cut in self.static])) for key in figures
        }
        rule = {"exit_threshold": theta, "min_exit_layer": first_layer, "mean_exit_layer": mean}
        return rule | figures | {"static_at_mean_layer": beside}


def sweep(
    scores: DepthScores, thetas: Sequence[float], first_layers: Sequence[int], per_layer: bool
) -> dict[str, list[dict[str, Any]]]:
    """The points of a grid of thresholds and first layers.

    Args:
        scores: of the pairs.
        thetas: thresholds.
        first_layers: values of l_min.
        per_layer: thresholds of each layer, too (`layer_thetas`).

    Returns:
        `grid`: for each point what `DepthScores.measure` returns; `per_layer`, where asked for: such points
        of thresholds of each layer, the `frontier` of them alone.
    """
    points = {"grid": [scores.measure(theta, first) for first in first_layers for theta in thetas]}
    if per_layer:
        first = min(first_layers)
        points["per_layer"] = frontier(
            [scores.measure(theta, first) for theta in layer_thetas(scores.cosines, first)]
        )
    return points


def layer_thetas(cosines: FloatArray, first_layer: int) -> Iterator[list[float | None]]:
    """Thresholds of each layer, all combinations of those that `SHARES` of the texts reach.

    s_l grows with l on its own, so that one threshold for all layers closes the lower ones to every text.

    Args:
        cosines: (N, L), s_l of N texts.
        first_layer: the first that may have a threshold, counted from 1.

    Yields:
        L thresholds, rounded down to three decimals; None where nothing leaves.
    """
    columns = [
        [None if share is None else _round_down(np.nanquantile(column, 1 - share)) for share in SHARES]
        for column in cosines[:, first_layer - 1 : -1].T
    ]

    def combine(columns: list[list[float | None]]) -> Iterator[list[float | None]]:
        if not columns:
            yield []
            return
        first, *rest = columns
        for theta in first:
            # Where all have left there is nothing more to try.
            for others in [[None] * len(rest)] if theta == first[-1] else combine(rest):
                yield [theta, *others]

    for thetas in combine(columns):
        yield [None] * (first_layer - 1) + thetas + [None]


def _round_down(cosine: float) -> float:
    # As a Python float: in float32, 0.199 would be written as 0.19900000095.
    return float(np.floor(np.round(1e3 * float(cosine), 6)) / 1e3)  # 0.65 is 649.99... thousandths otherwise


def frontier(grid: Sequence[dict[str, Any]], score: str = "spearman") -> list[dict[str, Any]]:
    """The points of the grid that no other one beats in both score and mean exit layer, by depth."""
    best: list[dict[str, Any]] = []
    # Of equal points the strictest threshold comes first, as it errs on the side of depth on other data; then
    # the highest first layer, as it tests less.
    order = sorted(
        grid,
        key=lambda point: (
            point["mean_exit_layer"],
            -point[score],
            -_strictness(point),
            -point["min_exit_layer"],
        ),
    )
    for point in order:
        if not best or point[score] > best[-1][score]:
            best.append(point)
    return best


def _strictness(point: dict[str, Any]) -> float:
    theta = point["exit_threshold"]
    return float(np.mean([1.0 if t is None else t for t in theta])) if isinstance(theta, list) else theta


def choose(
    points: Sequence[dict[str, Any]], *, max_mean_layer: float = math.inf, least: float | None = None
) -> dict[str, Any]:
    """The rule by which theta and l_min are chosen, on a validation set.

    Of the points with a mean exit layer of at most `max_mean_layer`: the one with the highest Spearman
    correlation, or, given `least`, the shallowest of at least that correlation. Of several, the one of the
    least mean depth, then the one of the highest threshold, then of the highest first layer.

    Raises:
        UsageError: no point is that shallow, or none that good.
    """
    within = [point for point in frontier(points) if point["mean_exit_layer"] <= max_mean_layer]
    if not within:
        shallowest = min(point["mean_exit_layer"] for point in points)
        raise UsageError(
            f"--max_mean_layer: no point leaves by {max_mean_layer}; give {shallowest:.3f} or more"
        )
    if least is None:
        return within[-1]
    good = [point for point in within if point["spearman"] >= least]
    if not good:
        raise UsageError(
            f"--max_loss: no point reaches {least:.4f}, the best has {within[-1]['spearman']:.4f}; allow more"
        )
    return good[0]
