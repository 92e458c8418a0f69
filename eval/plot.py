"""Pictures of the figures, drawn to be read at the width of a model card (about 700 pixels)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap.errors import UsageError
from leap.files import atomic_write

try:
    import matplotlib

    matplotlib.use("Agg")  # no window system: it runs on servers
    from matplotlib import pyplot as plt
    from matplotlib import ticker
except ImportError as error:
    raise UsageError("--plot: needs matplotlib: pip install matplotlib") from error


def plot_peers(figures: dict[str, Any], title: str, *paths: Path) -> None:
    """Draw quality over latency of one text at a time, and the speedup of exits over the batch size.

    Args:
        figures: what `eval.speed.peers` measured. Of several kinds of texts the first is drawn on the left.
        title: of the picture.
        *paths: files to write; the ending of each says of what kind.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), dpi=150, width_ratios=(5, 4))
    _draw_quality(left, figures)
    _draw_speedups(right, figures)
    figure.suptitle(title, fontsize=11)
    save(figure, paths)


def _draw_quality(axes: Any, figures: dict[str, Any]) -> None:
    """Draw Spearman over the median time per text, one marker per library and variant."""
    scores = {(row["peer"], row["variant"]): row["spearman"] for row in figures["quality"]}
    kind, size = figures["texts"][0]["name"], min(row["batch_size"] for row in figures["rows"])
    rows = [row for row in figures["rows"] if (row["texts"], row["batch_size"]) == (kind, size)]
    full: dict[str, tuple[float, float]] = {}
    labels: list[tuple[float, float, str, str]] = []  # time, score, name, color
    for row in rows:
        peer = figures["peers"][row["peer"]]
        color = (
            "0.35" if peer["model"] == "teacher" else "C0" if row["variant"] == "full depth" else "crimson"
        )
        marker = "o" if peer["precision"] == "float32" else "s"
        at = (row["p50_ms"], scores[row["peer"], row["variant"]])
        axes.plot(*at, color=color, marker=marker, markersize=7, linestyle="none")
        if peer["model"] == "leap" and row["variant"] == "full depth":
            full[row["peer"]] = at
            continue
        # LEAP's two variants are joined by a line and named once.
        if peer["model"] == "leap":
            axes.plot(*zip(full[row["peer"]], at, strict=True), color="crimson", linewidth=0.7, alpha=0.6)
        labels.append((*at, row["peer"].removeprefix("leap-"), color))
    for time, score, name, color in _merged(sorted(labels)):
        below = color == "crimson"
        axes.annotate(
            name,
            (time, score),
            xytext=(4, -5 if below else 4),
            textcoords="offset points",
            fontsize=7,
            color=color,
            rotation=-30 if below else 70,
            rotation_mode="anchor",
            verticalalignment="top" if below else "bottom",
        )
    for label, color, marker in (
        ("teacher", "0.35", "o"),
        ("LEAP, full depth", "C0", "o"),
        ("LEAP, exits", "crimson", "o"),
        ("the same in int8", "white", "s"),
    ):
        edge = "0.35" if color == "white" else color
        axes.plot([], [], color=color, marker=marker, linestyle="none", markeredgecolor=edge, label=label)
    shown = sorted(scores.values())
    margin = 0.4 * (shown[-1] - shown[0]) + 0.001  # for the names; those above are longer
    axes.set(
        xlabel=f"milliseconds, median: {kind}, batch {size}",
        ylabel="Spearman correlation",
        xscale="log",
        ylim=(shown[0] - margin, shown[-1] + 2 * margin),
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    times = [row["p50_ms"] for row in rows]
    axes.set_xlim(min(times) / 1.3, max(times) * 2.2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")


def _merged(labels: list[tuple[float, float, str, str]]) -> list[tuple[float, float, str, str]]:
    """Labels in the order of time, with those that would cover each other in one."""
    found: list[tuple[float, float, str, str]] = []
    for time, score, name, color in labels:
        for index, (first, level, names, shade) in enumerate(found):
            if shade == color and time < 1.25 * first and abs(score - level) < 0.002:
                found[index] = (first, level, f"{names}\n{name}", shade)
                break
        else:
            found.append((time, score, name, color))
    return found


def _draw_speedups(axes: Any, figures: dict[str, Any]) -> None:
    """Draw exits over full depth in the same library, by texts and batch size; a mark at the possible."""
    rows = [row for row in figures["rows"] if "speedup" in row]
    names = list(dict.fromkeys(row["peer"] for row in rows))
    groups = list(dict.fromkeys((row["texts"], row["batch_size"]) for row in rows))
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        own = [row for row in rows if row["peer"] == name]
        at = [groups.index((row["texts"], row["batch_size"])) + (index + 0.5) * width - 0.4 for row in own]
        label = name.removeprefix("leap-")
        axes.bar(at, [row["speedup"] for row in own], width=0.9 * width, color=f"C{index}", label=label)
        axes.plot(
            at,
            [row["possible"] for row in own],
            color="black",
            marker="_",
            markersize=250 * width / len(groups),
            linestyle="none",
            label="layers / mean layers run" if index == len(names) - 1 else None,
        )
    axes.axhline(1, color="0.5", linewidth=0.8)
    labels = [f"{texts.replace('passages of ', '')}\nx {size}" for texts, size in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=7)
    axes.set(xlabel="texts (passages: tokens) and batch", ylabel="speedup of exits over full depth")
    axes.grid(alpha=0.3, axis="y")
    axes.set_ylim(0, 1.45 * max((row["possible"] for row in rows), default=1))
    axes.legend(fontsize=7, ncols=2, loc="upper center")


def save(figure: Any, paths: Sequence[Path], bottom: float = 0.0) -> None:
    """Write a figure to files, whose suffixes say in which formats, and close it.

    Args:
        figure: of matplotlib.
        paths: files to write.
        bottom: share of the height left free below, for a legend.
    """
    figure.tight_layout(rect=(0, bottom, 1, 1))
    for path in paths:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:])
        with atomic_write(path) as file:
            file.write(picture.getvalue())
    plt.close(figure)
