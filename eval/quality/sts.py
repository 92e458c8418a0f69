"""Sentence similarity: Spearman's correlation at full depth, with exits, and cut at every layer.

python -m eval sts --model . --data stsb --split test --output results/sts-stsb-test.json
"""

import argparse
from typing import Any, Literal

import numpy as np

from eval.report import Report
from leap.arguments import add_common_arguments, add_exit_arguments, check_writable
from leap.encode.encoder import Encoder, encode_layers, find_model, load_encoder
from leap.encode.exits import FloatArray, at_layers, exit_layers, row_cosines, successive_cosines, theta_text
from leap.encode.metrics import CosineSpearman, bootstrap_interval
from leap.text.sets import StsData, load_sts


def evaluate_sts(
    encoder: Encoder,
    data: StsData,
    *,
    exit_threshold: float | Literal["config"] | None = "config",
    min_exit_layer: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Spearman's correlation of cosine with gold similarity, from one pass at full depth.

    Args:
        encoder: the model.
        data: N pairs.
        exit_threshold: theta; "config": the model's own; None: no exits.
        min_exit_layer: l_min; None: the model's own.
        seed: of the bootstrap.
        batch_size: texts a forward pass.
        progress: show a progress bar.

    Returns:
        `pairs`; `full_depth`: `spearman` and its 95 % `interval`; `static`: the same at each `layer`;
        `exits`: None without a threshold, else the same with the rule, `mean_exit_layer` over the 2N
        sentences and `exit_histogram`, the number of sentences that left at layers 1 .. L.

    Raises:
        UsageError: a threshold or first layer out of its range.
    """
    theta, first_layer, patience = encoder.exit_rule(exit_threshold, min_exit_layer)
    layers = embed_pairs(encoder, data, batch_size=batch_size, progress=progress)

    def score(embeddings: FloatArray) -> dict[str, Any]:
        first, second = np.split(embeddings, 2)
        metric = CosineSpearman(keep_in_memory=True)
        found = metric.compute(embeddings1=first, embeddings2=second, references=data.scores)
        interval = bootstrap_interval(row_cosines(first, second), data.scores, seed=seed)
        return {"spearman": found["cosine_spearman"], "interval": interval}

    static = [{"layer": layer, **score(layers[:, layer - 1])} for layer in range(1, encoder.depth + 1)]
    full_depth = {key: static[-1][key] for key in ("spearman", "interval")}
    exits = None
    if theta is not None:
        left = exit_layers(successive_cosines(layers, patience), theta, first_layer)
        exits = {
            "exit_threshold": theta,
            "min_exit_layer": first_layer,
            "exit_patience": patience,
            **score(at_layers(layers, left)),
            "mean_exit_layer": float(left.mean()),
            "exit_histogram": np.bincount(left, minlength=encoder.depth + 1)[1:].tolist(),
        }
    return {"pairs": len(data.scores), "full_depth": full_depth, "exits": exits, "static": static}


def embed_pairs(
    encoder: Encoder, data: StsData, *, batch_size: int = 64, progress: bool = False
) -> FloatArray:
    """(2N, L, H): every layer's embeddings of the N first sentences, then of the N second ones."""
    texts = data.first + data.second
    return encode_layers(encoder, texts, batch_size=batch_size, progress=data.name if progress else None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    add_exit_arguments(parser)
    parser.add_argument(
        "--data",
        default="stsb",
        help="CSV (sentence1,sentence2,score), stsb, STS12, STS13, STS15 or a Hub id",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    find_model(args.model)
    data = load_sts(args.data, args.split)
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    figures = evaluate_sts(
        encoder,
        data,
        exit_threshold=args.exit_threshold,
        min_exit_layer=args.min_exit_layer,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=True,
    )
    return Report(figures, _summary(data, figures), {"model": encoder}, data, args.seed)


def _summary(data: StsData, figures: dict[str, Any]) -> str:
    lines = [f"{data.name}: {figures['pairs']} pairs; Spearman of cosine, 95 % bootstrap interval"]
    rows = [(f"layer {row['layer']}", row) for row in figures["static"]] + [
        ("full depth", figures["full_depth"])
    ]
    exits = figures["exits"]
    if exits:
        rows.append(("exits", exits))
    for name, row in rows:
        low, high = row["interval"]
        lines.append(f"  {name:<12}{row['spearman']:.4f}  [{low:.4f}, {high:.4f}]")
    if exits:
        lines.append(
            f"  theta {theta_text(exits['exit_threshold'])}, l_min {exits['min_exit_layer']}: "
            f"mean exit layer {exits['mean_exit_layer']:.3f} of {len(figures['static'])}, "
            f"by layer {exits['exit_histogram']}"
        )
    return "\n".join(lines)
