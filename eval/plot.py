"""Pictures of the figures, drawn to be read at the width of a model card (about 700 pixels)."""

import io
from pathlib import Path
from typing import Any

from eval.errors import UsageError
from eval.files import atomic_write

try:
    import matplotlib

    matplotlib.use("Agg")  # no window system: it runs on servers
    from matplotlib import pyplot as plt
except ImportError as error:
    raise UsageError("--plot: needs matplotlib: pip install matplotlib") from error

FORMATS = ("png", "svg", "pdf")


def check_format(argument: str, path: Path) -> None:
    """Raise a UsageError if the ending of `path` names no kind of picture."""
    if path.suffix[1:] not in FORMATS:
        raise UsageError(f"{argument}: {str(path)!r} must end in one of .{', .'.join(FORMATS)}")


def plot_pareto(figures: dict[str, Any], title: str, path: Path) -> None:
    """Draw Spearman over mean depth, of the grid of `eval.pareto` and of static cuts.

    Args:
        figures: what `evaluate_pareto` returns, with `chosen` or without.
        title: of the picture.
        path: file to write; its ending says of what kind.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=200)
    for first_layer in sorted({point["min_exit_layer"] for point in figures["grid"]}):
        points = [point for point in figures["grid"] if point["min_exit_layer"] == first_layer]
        points.sort(key=lambda point: point["mean_exit_layer"])
        axes.plot(
            [point["mean_exit_layer"] for point in points],
            [point["spearman"] for point in points],
            marker=".",
            linewidth=1.2,
            label=f"exits, from layer {first_layer}",
        )
    # Layers that no setting leaves at are far below the rest and would flatten it.
    shallowest = int(min(point["mean_exit_layer"] for point in figures["grid"]))
    static = figures["static"][shallowest - 1 :]
    axes.plot(
        [cut["layer"] for cut in static],
        [cut["spearman"] for cut in static],
        color="black",
        linestyle="--",
        marker="o",
        label="cut at a fixed layer",
    )
    if "chosen" in figures:
        chosen = figures["chosen"]
        axes.plot(
            chosen["mean_exit_layer"],
            chosen["spearman"],
            color="crimson",
            marker="*",
            markersize=15,
            linestyle="none",
            label=f"chosen: theta {chosen['exit_threshold']}, from layer {chosen['min_exit_layer']}",
        )
    axes.set(xlabel="mean layer at which a sentence leaves", ylabel="Spearman correlation", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    plt.close(figure)
    with atomic_write(path) as file:
        file.write(picture.getvalue())
