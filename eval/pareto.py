"""Quality over depth: every threshold and first layer of a grid, beside the model cut statically.

    python -m eval pareto --model . --split validation --plot pareto.png
    python -m eval pareto --model . --split validation --choose --max_mean_layer 3.6 --write

The second form applies the rule by which the thresholds of this project are chosen (`choose`), on STS-B's
validation split and never on its test split, and writes them into the model's config.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.arguments import add_common_arguments, check_writable, numbers
from eval.data import StsData, load_sts
from eval.encode import Encoder, find_model, load_encoder
from eval.errors import UsageError
from eval.exits import FloatArray, exit_layers, row_cosines, successive_cosines
from eval.files import write_json
from eval.metrics import spearman
from eval.report import Report
from eval.sts import embed_pairs

# Finer where it matters: in a model trained to converge, successive layers are mostly above 0.9 alike.
DEFAULT_THETAS = tuple(
    np.round(
        [*np.arange(0.50, 0.90, 0.02), *np.arange(0.90, 0.99, 0.005), *np.arange(0.99, 0.9995, 0.001)], 4
    ).tolist()
)


def evaluate_pareto(
    encoder: Encoder,
    data: StsData,
    *,
    thetas: Sequence[float] = DEFAULT_THETAS,
    min_exit_layers: Sequence[int] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Spearman's correlation and fidelity to full depth over mean depth, from one pass at full depth.

    Args:
        encoder: the model.
        data: N pairs.
        thetas: thresholds of the grid.
        min_exit_layers: first layers of the grid; None: all that there are, k + 1 .. L - 1.
        batch_size: texts a forward pass.
        progress: show a progress bar.

    Returns:
        `static`: for each `layer` the `spearman`, and of the cosines to the full-depth embeddings of the 2N
        sentences the mean, `fidelity_mean`, and the 5th percentile, `fidelity_p5`. `grid`: for each point its
        rule, `mean_exit_layer` over the 2N sentences, those three figures, and under `static_at_mean_layer`
        the three of static cuts, linearly interpolated at the same mean depth: what exits have to beat.

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
    cosines = successive_cosines(layers, patience)
    fidelity = row_cosines(layers, layers[:, -1:])  # (2N, L)
    pairs = _pair_cosines(layers)

    def score(left: FloatArray) -> dict[str, float]:
        """The three figures when the 2N sentences leave at layers `left` (2N,)."""
        first, second = np.split(left - 1, 2)
        kept = fidelity[np.arange(len(left)), left - 1]
        return {
            "spearman": float(spearman(pairs[np.arange(len(first)), first, second], data.scores)),
            "fidelity_mean": float(kept.mean()),
            "fidelity_p5": float(np.quantile(kept, 0.05)),
        }

    static = [score(np.full(len(layers), layer)) for layer in range(1, depth + 1)]
    grid = []
    for first_layer in first_layers:
        for theta in thetas:
            left = exit_layers(cosines, theta, first_layer)
            mean = float(left.mean())
            grid.append(
                {
                    "exit_threshold": theta,
                    "min_exit_layer": first_layer,
                    "mean_exit_layer": mean,
                    **score(left),
                    "static_at_mean_layer": {
                        key: float(np.interp(mean, range(1, depth + 1), [cut[key] for cut in static]))
                        for key in static[0]
                    },
                }
            )
    return {
        "pairs": len(data.scores),
        "exit_patience": patience,
        "static": [{"layer": layer, **cut} for layer, cut in enumerate(static, start=1)],
        "grid": grid,
    }


def _pair_cosines(layers: FloatArray) -> FloatArray:
    """(N, L, L): the cosine of a pair whose first sentence left at one layer and whose second at another."""
    unit = layers / np.maximum(np.linalg.norm(layers, axis=-1, keepdims=True), 1e-12)
    first, second = np.split(unit, 2)
    return first @ second.swapaxes(1, 2)


def frontier(grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of the grid that no other one beats in both Spearman and mean exit layer, by depth."""
    best: list[dict[str, Any]] = []
    # Of equal points the strictest threshold comes first: it errs on the side of depth on other data.
    order = sorted(
        grid, key=lambda point: (point["mean_exit_layer"], -point["spearman"], -point["exit_threshold"])
    )
    for point in order:
        if not best or point["spearman"] > best[-1]["spearman"]:
            best.append(point)
    return best


def choose(grid: Sequence[dict[str, Any]], max_mean_layer: float) -> dict[str, Any]:
    """The rule by which theta and l_min are chosen, on a validation set.

    Of the points with a mean exit layer of at most `max_mean_layer`, the one with the highest Spearman
    correlation; of several, the one of the least mean depth, then the one of the highest threshold.

    Raises:
        UsageError: no point is that shallow.
    """
    within = [point for point in frontier(grid) if point["mean_exit_layer"] <= max_mean_layer]
    if not within:
        least = min(point["mean_exit_layer"] for point in grid)
        raise UsageError(f"--max_mean_layer: no point leaves by {max_mean_layer}; give {least:.3f} or more")
    return within[-1]


def write_rule(folder: Path, point: dict[str, Any]) -> None:
    """Write a chosen theta and l_min into the config.json of a model's folder, all else in it as it was."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {key: point[key] for key in ("exit_threshold", "min_exit_layer")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument(
        "--data", default="stsb", help="CSV (sentence1,sentence2,score), stsb, STS12 ... or Hub id"
    )
    parser.add_argument("--thetas", type=numbers(float), default=DEFAULT_THETAS, help="such as 0.9,0.95,0.99")
    parser.add_argument("--min_exit_layers", type=numbers(int), help="such as 2,3 (default: all there are)")
    parser.add_argument(
        "--choose", action="store_true", help="choose theta and l_min, given --max_mean_layer"
    )
    parser.add_argument("--max_mean_layer", type=float, help="bound of the mean exit layer for --choose")
    parser.add_argument("--write", action="store_true", help="write the choice into the model's config.json")
    parser.add_argument("--plot", type=Path, help="picture to write; .png, .svg and .pdf say of what kind")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    if args.choose != (args.max_mean_layer is not None):
        raise UsageError("--choose and --max_mean_layer: give both, or neither")
    if args.write and not args.choose:
        raise UsageError("--write: writes what --choose has chosen: add --choose and --max_mean_layer")
    folder = Path(find_model(args.model))
    if args.write and not folder.is_dir():
        raise UsageError(f"--write: {args.model!r} is not a folder: download the model and give its folder")
    check_writable("--output", args.output)
    check_writable("--plot", args.plot)
    if args.plot:
        # Here: matplotlib takes long to load and is not needed otherwise.
        from eval.plot import check_format, plot_pareto

        check_format("--plot", args.plot)
    data = load_sts(args.data, args.split)
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    figures = evaluate_pareto(
        encoder,
        data,
        thetas=args.thetas,
        min_exit_layers=args.min_exit_layers,
        batch_size=args.batch_size,
        progress=True,
    )
    if args.choose:
        figures["chosen"] = choose(figures["grid"], args.max_mean_layer) | {
            "max_mean_layer": args.max_mean_layer
        }
    if args.write:
        write_rule(folder, figures["chosen"])
    if args.plot:
        plot_pareto(figures, data.name, args.plot)
    return Report(figures, _summary(data, figures), {"model": encoder}, data)


def _summary(data: StsData, figures: dict[str, Any]) -> str:
    lines = [
        f"{data.name}: {figures['pairs']} pairs; fidelity = cosine to the full-depth embedding",
        f"  {'':<32}{'layer':>6}{'Spearman':>10}{'fidelity':>10}{'5th pct':>9}  static, same depth",
    ]
    rows = [(f"static, layer {cut['layer']}", cut["layer"], cut, "") for cut in figures["static"]]
    points = [("", point) for point in frontier(figures["grid"])]
    if "chosen" in figures:
        points.append(("chosen: ", figures["chosen"]))
    for prefix, point in points:
        name = f"{prefix}theta {point['exit_threshold']}, l_min {point['min_exit_layer']}"
        beside = f"{point['static_at_mean_layer']['spearman']:.4f}"
        rows.append((name, point["mean_exit_layer"], point, beside))
    for name, layer, row, beside in rows:
        lines.append(
            f"  {name:<32}{layer:>6.2f}{row['spearman']:>10.4f}{row['fidelity_mean']:>10.4f}"
            f"{row['fidelity_p5']:>9.4f}{beside:>8}"
        )
    return "\n".join(lines)
