"""Quality over depth: every threshold and first layer of a grid, beside the model cut statically.

    python -m eval pareto --model . --split validation --plot pareto.png pareto.svg
    python -m eval pareto --model . --split validation --per_layer --choose --max_loss 0.003 --write

The second form applies a rule by which thresholds are chosen (`choose`), on STS-B's validation split and
never on its test split, and writes them into the model's config.json.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.quality.sts import embed_pairs
from eval.report import Report
from leap.arguments import add_common_arguments, add_plot_argument, check_plots, check_writable, numbers
from leap.encode.encoder import Encoder, find_model, find_model_folder, load_encoder, update_config
from leap.encode.exits import (
    FloatArray,
    IntArray,
    exit_layers,
    pair_cosines,
    row_cosines,
    successive_cosines,
    theta_text,
)
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import StsData, load_sts

# Finer where it matters: in a model trained to converge, successive layers are mostly above 0.9 alike.
DEFAULT_THETAS = tuple(
    np.round(
        [*np.arange(0.50, 0.90, 0.02), *np.arange(0.90, 0.99, 0.005), *np.arange(0.99, 0.9995, 0.001)], 4
    ).tolist()
)
# Of all texts' s_l at a layer, the share above its threshold: from nothing leaves to all leave.
SHARES = (None, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def evaluate_pareto(
    encoder: Encoder,
    data: StsData,
    *,
    thetas: Sequence[float] = DEFAULT_THETAS,
    min_exit_layers: Sequence[int] | None = None,
    per_layer: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Spearman's correlation and fidelity to full depth over mean depth, from one pass at full depth.

    Args:
        encoder: the model.
        data: N pairs.
        thetas: thresholds of the grid.
        min_exit_layers: first layers of the grid; None: all that there are, k + 1 .. L - 1.
        per_layer: try thresholds of each layer, too (`layer_thetas`); they depend on these data.
        batch_size: texts a forward pass.
        progress: show a progress bar.

    Returns:
        `static`: for each `layer` the `spearman`, and of the cosines to the full-depth embeddings of the 2N
        sentences the mean, `fidelity_mean`, and the 5th percentile, `fidelity_p5`. `grid`: for each point its
        rule, `mean_exit_layer` over the 2N sentences, those three figures, and under `static_at_mean_layer`
        the three of static cuts, linearly interpolated at the same mean depth: what exits have to beat.
        `per_layer`, where asked for: such points of thresholds of each layer, the `frontier` of them alone.

    Raises:
        UsageError: a threshold or first layer out of its range.
    """
    _, _, patience = encoder.exit_rule(None)
    depth = encoder.depth
    lowest = min(patience + 1, depth)
    first_layers = range(lowest, max(depth, lowest + 1)) if min_exit_layers is None else min_exit_layers
    for theta in thetas:
        for first_layer in first_layers:
            encoder.exit_rule(theta, first_layer)  # a grid with a wrong value stops here, before the work

    layers = embed_pairs(encoder, data, batch_size=batch_size, progress=progress)
    scores = DepthScores(layers, data.scores, patience)
    figures = {"pairs": len(data.scores), "exit_patience": patience, "static": scores.static}
    return figures | sweep(scores, thetas, first_layers, per_layer)


class DepthScores:
    """The figures of pairs under any exit rule, looked up in the stored embeddings of their sentences.

    Args:
        layers: (2N, L, H), from `embed_pairs`.
        scores: (N,) gold similarity.
        patience: k, as in `successive_cosines`.

    Attributes:
        cosines: (2N, L), s_l.
        static: for each `layer` the figures of a cut after it, as `evaluate_pareto` returns them.
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
    """`grid` and, where asked for, `per_layer` of what `evaluate_pareto` returns; arguments as there."""
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


def write_rule(folder: Path, point: dict[str, Any]) -> None:
    """Write a chosen theta and l_min into the config.json of a model's folder, all else in it as it was."""
    update_config(folder, {key: point[key] for key in ("exit_threshold", "min_exit_layer")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument(
        "--data", default="stsb", help="CSV (sentence1,sentence2,score), stsb, STS12 ... or Hub id"
    )
    parser.add_argument("--thetas", type=numbers(float), default=DEFAULT_THETAS, help="such as 0.9,0.95,0.99")
    parser.add_argument("--min_exit_layers", type=numbers(int), help="such as 2,3 (default: all there are)")
    parser.add_argument("--per_layer", action="store_true", help="try thresholds of each layer, too")
    parser.add_argument(
        "--choose", action="store_true", help="choose theta and l_min, given one or both of the two bounds"
    )
    parser.add_argument("--max_mean_layer", type=float, help="bound of the mean exit layer for --choose")
    parser.add_argument(
        "--max_loss",
        type=float,
        help="choose the shallowest that loses at most this against full depth, such as 0.003",
    )
    parser.add_argument("--write", action="store_true", help="write the choice into the model's config.json")
    add_plot_argument(parser)


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    if args.choose != (args.max_mean_layer is not None or args.max_loss is not None):
        raise UsageError("--choose: goes with --max_mean_layer or --max_loss, and they with it")
    if args.write and not args.choose:
        raise UsageError("--write: writes what --choose has chosen: add --choose and --max_loss")
    find_model(args.model)
    folder = find_model_folder(args.model) if args.write else None
    check_writable("--output", args.output)
    check_plots(args.plot)
    data = load_sts(args.data, args.split)
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    figures = evaluate_pareto(
        encoder,
        data,
        thetas=args.thetas,
        min_exit_layers=args.min_exit_layers,
        per_layer=args.per_layer,
        batch_size=args.batch_size,
        progress=True,
    )
    if args.choose:
        bounds = {"max_mean_layer": args.max_mean_layer, "max_loss": args.max_loss}
        least = None
        if args.max_loss is not None:
            least = figures["static"][-1]["spearman"] - args.max_loss
        deepest = math.inf if args.max_mean_layer is None else args.max_mean_layer
        points = figures["grid"] + figures.get("per_layer", [])
        figures["chosen"] = choose(points, max_mean_layer=deepest, least=least) | bounds
    if folder:
        write_rule(folder, figures["chosen"])
    if args.plot:
        from eval.plot import plot_pareto  # here, as in check_plots

        plot_pareto(figures, data.name, *args.plot)
    return Report(figures, _summary(data, figures), {"model": encoder}, data)


def _summary(data: StsData, figures: dict[str, Any]) -> str:
    lines = [
        f"{data.name}: {figures['pairs']} pairs; fidelity = cosine to the full-depth embedding",
        f"  {'':<32}{'layer':>6}{'Spearman':>10}{'fidelity':>10}{'5th pct':>9}  static, same depth",
    ]
    rows = [(f"static, layer {cut['layer']}", cut["layer"], cut, "") for cut in figures["static"]]
    points = [("", point) for point in frontier(figures["grid"] + figures.get("per_layer", []))]
    if "chosen" in figures:
        points.append(("chosen: ", figures["chosen"]))
    for prefix, point in points:
        name = f"{prefix}theta {theta_text(point['exit_threshold'])}, l_min {point['min_exit_layer']}"
        beside = f"{point['static_at_mean_layer']['spearman']:.4f}"
        rows.append((name, point["mean_exit_layer"], point, beside))
    for name, layer, row, beside in rows:
        lines.append(
            f"  {name:<32}{layer:>6.2f}{row['spearman']:>10.4f}{row['fidelity_mean']:>10.4f}"
            f"{row['fidelity_p5']:>9.4f}{beside:>8}"
        )
    return "\n".join(lines)
