"""Sentence similarity: Spearman's correlation at full depth, when all leap, and by the exit rule.

python -m eval sts --model . --data stsb --split test --output results/sts-stsb-test.json
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from configuration_leap import ExitThreshold
from eval.frame import Batched, OfModel
from eval.quality.cosine_spearman import CosineSpearman
from eval.report import Report
from leap.arguments import option, threshold
from leap.encode.encoder import Encoder
from leap.encode.exits import FloatArray, row_cosines, theta_text
from leap.encode.metrics import bootstrap_interval
from leap.encode.paths import encode_paths
from leap.text.sets import StsData, load_sts


@dataclass(kw_only=True)
class Options(Batched, OfModel):
    """Options of this evaluation."""

    data: str = option("CSV (sentence1,sentence2,score), stsb, STS12, STS13, STS15 or a Hub id", "stsb")
    split: str = option("split of the data", "test")
    exit_threshold: str = option("theta, none for full depth, or config for the model's own", "config")
    seed: int = option("random seed of the bootstrap", 0)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        threshold(self.exit_threshold)


def evaluate_sts(
    encoder: Encoder,
    data: StsData,
    *,
    exit_threshold: ExitThreshold | str = "config",
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Spearman's correlation of cosine with gold similarity.

    Args:
        encoder: the model.
        data: N pairs.
        exit_threshold: theta; "config": the model's own; None: no exits.
        seed: of the bootstrap.
        batch_size: texts a forward pass.
        progress: show a progress bar.

    Returns:
        `pairs`; `full_depth`: `spearman`, its 95 % `interval`, and `mean_layers_run`; `paths`: the same when
        all texts converge at one `test_layer` of the model, and `all_leap`: the first of these, in a model
        with a landing layer; `exits`: the same by the rule, with the rule and the share of sentences that
        leave early, `leap_share`; None without a threshold.

    Raises:
        UsageError: a threshold out of its range.
    """
    theta, _, _ = encoder.exit_rule(exit_threshold)
    label = data.name if progress else None
    paths = encode_paths(encoder, data.first + data.second, batch_size=batch_size, progress=label)

    def score(embeddings: FloatArray, layers: float) -> dict[str, Any]:
        first, second = np.split(embeddings, 2)
        metric = CosineSpearman(keep_in_memory=True)
        found = metric.compute(embeddings1=first, embeddings2=second, references=data.scores)
        interval = bootstrap_interval(row_cosines(first, second), data.scores, seed=seed)
        return {
            "spearman": found["cosine_spearman"],
            "interval": list(interval),
            "mean_layers_run": float(layers),
        }

    figures: dict[str, Any] = {
        "pairs": len(data.scores),
        "full_depth": score(paths.full, encoder.depth),
        "paths": [
            {"test_layer": int(layer), **score(paths.embeddings[:, path], paths.layers_run[path])}
            for path, layer in enumerate(paths.layers)
        ],
        "exits": None,
    }
    if encoder.model.config.landing_layer is not None:
        figures["all_leap"] = figures["paths"][0]
    if theta is not None:
        taken = paths.taken(theta)
        figures["exits"] = {
            **encoder.rule_in_force(theta),
            **score(paths.at(theta), paths.cost(theta).mean()),
            "leap_share": float((taken < len(paths.layers)).mean()),
        }
    return figures


def run(options: Options) -> Report:
    """Evaluate a model on the pairs asked for."""
    data = load_sts(options.data, options.split)
    encoder = options.encoder()
    figures = evaluate_sts(
        encoder,
        data,
        exit_threshold=threshold(options.exit_threshold),
        seed=options.seed,
        batch_size=options.batch_size,
        progress=True,
    )
    return Report(figures, _summary(data, figures), {"model": encoder}, data, options.seed)


def _summary(data: StsData, figures: dict[str, Any]) -> str:
    lines = [f"{data.name}: {figures['pairs']} pairs; Spearman of cosine, 95 % bootstrap interval"]
    rows = [("full depth", figures["full_depth"])]
    rows += [(f"all leave at layer {row['test_layer']}", row) for row in figures["paths"]]
    if figures["exits"]:
        rows.append((f"theta {theta_text(figures['exits']['exit_threshold'])}", figures["exits"]))
    for name, row in rows:
        (low, high), layers = row["interval"], row["mean_layers_run"]
        lines.append(f"  {name:<24}{row['spearman']:.4f}  [{low:.4f}, {high:.4f}] at {layers:.3f} layers")
    return "\n".join(lines)
