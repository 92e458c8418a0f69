"""Pictures of the figures, drawn to be read at the width of a model card (about 700 pixels)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap.encode.exits import theta_text
from leap.errors import UsageError
from leap.files import atomic_write

try:
    import matplotlib

    matplotlib.use("Agg")  # no window system: it runs on servers
    from matplotlib import pyplot as plt
    from matplotlib import ticker
except ImportError as error:
    raise UsageError("--plot: needs matplotlib: pip install matplotlib") from error

FORMATS = ("png", "svg", "pdf")


def check_format(argument: str, path: Path) -> None:
    """Raise a UsageError if the ending of `path` names no kind of picture."""
    if path.suffix[1:] not in FORMATS:
        raise UsageError(f"{argument}: {str(path)!r} must end in one of .{', .'.join(FORMATS)}")


def plot_pareto(figures: dict[str, Any], title: str, *paths: Path) -> None:
    """Draw Spearman over mean depth, of the grid of `eval.quality.pareto` and of static cuts.

    Args:
        figures: what `evaluate_pareto` returns, with `chosen` or without.
        title: of the picture.
        *paths: files to write; the ending of each says of what kind.
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
    if "per_layer" in figures:
        points = figures["per_layer"]
        axes.plot(
            [point["mean_exit_layer"] for point in points],
            [point["spearman"] for point in points],
            color="0.6",
            marker=".",
            linewidth=1.2,
            label="exits, a threshold a layer, the best",
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
            label=f"chosen: theta {theta_text(chosen['exit_threshold'])}",
        )
    axes.set(xlabel="mean layer at which a sentence leaves", ylabel="Spearman correlation", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    _save(figure, paths)


def plot_front(figures: dict[str, Any], *paths: Path) -> None:
    """Draw a front of exit rules over cuts, a panel for each set and metric.

    Args:
        figures: what `eval.quality.front.evaluate_front` returns.
        *paths: files to write; the ending of each says of what kind.
    """
    sets = figures["sets"]
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.2 * rows), dpi=150, squeeze=False)
    for axes, found in zip(panels.flat, sets, strict=False):
        static, shallowest = found["static"], len(found["static"])
        for kind, style in (("one theta", "C0.-"), ("theta a layer", "C1.-"), ("config", "C3*")):
            points = [point for point in found["points"] if point["kind"] == kind]
            points.sort(key=lambda point: point["mean_layer"])
            depths = [point["mean_layer"] for point in points]
            axes.plot(
                depths, [point["score"] for point in points], style, linewidth=1.1, label=f"exits, {kind}"
            )
            if kind != "config":
                coins = [point["coin"]["score"] for point in points]
                axes.plot(depths, coins, "x", color=style[:2], markersize=4, alpha=0.6)
            shallowest = min([shallowest, *map(int, depths)])
        layers = range(shallowest, len(static) + 1)
        axes.plot(layers, static[shallowest - 1 :], "ko--", linewidth=1, label="cut (x: coin between cuts)")
        title = ", ".join(part for part in (found["name"], found["documents"]) if part)
        axes.set(xlabel="mean layer", ylabel=found["metric"], title=title)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(sets) :]:
        axes.set_axis_off()
    panels[0, 0].legend(fontsize=7)
    _save(figure, paths)


def plot_baselines(figures: dict[str, Any], title: str, *paths: Path) -> None:
    """Draw Spearman over mean depth of every method: static cuts as lines, exits as bold markers.

    Args:
        figures: what `run_baselines` returns; error bars are a standard deviation over seeds.
        title: of the picture.
        *paths: files to write; the ending of each says of what kind.
    """
    figure, axes = plt.subplots(figsize=(7, 5.2), dpi=200)
    axes.axhline(figures["teacher"]["test"], color="0.5", linestyle=":", linewidth=1, label="teacher")
    shown = [figures["teacher"]["test"]]
    for index, (name, method) in enumerate(figures["methods"].items()):
        color, marker = f"C{index}", "oDsPXv^"[index % 7]
        cuts, points = method["static_mean"], [point for point in method["exits_mean"] if point]
        depths, values = [cut["layer"] for cut in cuts], [cut["spearman"] for cut in cuts]
        axes.plot(depths, values, color=color, linewidth=0.9, marker=marker, markersize=3, alpha=0.7)
        axes.errorbar(
            [point["mean_exit_layer"] for point in points],
            [point["spearman"] for point in points],
            yerr=[point["spearman_sd"] or 0 for point in points],
            color=color,
            linestyle="none",
            marker=marker,
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.6,
            capsize=3,
            label=name,
        )
        shown += values[2:] + [point["spearman"] for point in points if point["mean_exit_layer"] > 2.9]
    # What is far below the rest would flatten it, as the first layers would: it is cut off.
    top, bottom = max(shown), max(min(shown), figures["teacher"]["test"] - 0.1)
    margin = 0.05 * (top - bottom) + 0.001
    axes.set(
        xlabel="mean layer at which a sentence leaves (small, on a line: cut at that layer)",
        ylabel="Spearman correlation",
        xlim=(1.9, None),
        ylim=(bottom - margin, top + margin),
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    _save(figure, paths)


def plot_diagnosis(figures: dict[str, Any], title: str, *paths: Path) -> None:
    """Draw the similarity curve, the exit rate, the time balance and the comparability of depths.

    Args:
        figures: what `eval.quality.diagnose.diagnose` returns.
        title: of the picture; the verdict is put after it.
        *paths: files to write; the ending of each says of what kind.
    """
    theta, time, matrices = figures["exit_threshold"], figures["time"], figures["comparability"]
    layers = range(1, len(figures["similarity_curve"]) + 1)
    figure, axes = plt.subplot_mosaic("AABBCC;DDDEEE", figsize=(9, 7), dpi=150)

    axes["A"].plot(layers, figures["similarity_curve"], marker="o")
    axes["A"].axhline(theta, color="crimson", linestyle="--", label=f"theta {theta:g}")
    axes["A"].set(title="mean cosine to the last layer", xlabel="layer", ylim=(None, 1.02))
    axes["A"].legend(fontsize=8)
    axes["B"].bar(layers, [100 * rate for rate in figures["exits"]["rate"]])
    axes["B"].set(title="texts that leave, %", xlabel="layer", ylim=(0, 100))
    axes["C"].bar(["watching", "saved"], [time["watching_ms"], time["saved_ms"]], color=["crimson", "C2"])
    axes["C"].set(title="time of a text, ms, batch 1")
    for name, key, heading in (
        ("D", "spearman", "Spearman, the two texts at two layers"),
        ("E", "random_cosine", "mean cosine of unrelated texts"),
    ):
        axes[name].set_axis_off()
        if key in matrices:
            _draw_matrix(axes[name], matrices[key], heading)
    exits_early = figures["verdict"]["exits_early"]
    figure.suptitle(f"{title}: {'exits early' if exits_early else 'does not exit early'}")
    _save(figure, paths)


def plot_peers(figures: dict[str, Any], title: str, *paths: Path) -> None:
    """Draw quality over latency of one text at a time, and the speedup of exits over the batch size.

    Args:
        figures: what `eval.speed.peers` measured. Of several kinds of texts the first is drawn on the left.
        title: of the picture.
        *paths: files to write; the ending of each says of what kind.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), dpi=150, width_ratios=(3, 2))
    _draw_quality(left, figures)
    _draw_speedups(right, figures)
    figure.suptitle(title, fontsize=11)
    _save(figure, paths)


def _draw_quality(axes: Any, figures: dict[str, Any]) -> None:
    """Draw Spearman over the median time of a text, one marker a library and variant."""
    scores = {(row["peer"], row["variant"]): row["spearman"] for row in figures["quality"]}
    kind, size = figures["texts"][0]["name"], min(row["batch_size"] for row in figures["rows"])
    rows = [row for row in figures["rows"] if (row["texts"], row["batch_size"]) == (kind, size)]
    full: dict[str, tuple[float, float]] = {}
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
        # LEAP's two variants are joined by a line and named once, below; the teacher's libraries above.
        below = peer["model"] == "leap"
        if below:
            axes.plot(*zip(full[row["peer"]], at, strict=True), color="crimson", linewidth=0.7, alpha=0.6)
        axes.annotate(
            row["peer"].removeprefix("leap-"),
            at,
            xytext=(4, -5 if below else 4),
            textcoords="offset points",
            fontsize=7,
            color=color,
            rotation=-30 if below else 30,
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
    margin = 0.35 * (shown[-1] - shown[0]) + 0.001
    axes.set(
        xlabel=f"milliseconds, median: {kind}, batch {size}",
        ylabel="Spearman correlation",
        xscale="log",
        ylim=(shown[0] - margin, shown[-1] + margin),
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    times = [row["p50_ms"] for row in rows]
    axes.set_xlim(min(times) / 1.3, max(times) * 2.2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")


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
            label="layers / mean exit layer" if index == len(names) - 1 else None,
        )
    axes.axhline(1, color="0.5", linewidth=0.8)
    labels = [f"{texts.replace('passages of ', '')}\nx {size}" for texts, size in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=8)
    axes.set(xlabel="texts (passages: tokens) and batch", ylabel="speedup of exits over full depth")
    axes.grid(alpha=0.3, axis="y")
    axes.set_ylim(0, 1.45 * max((row["possible"] for row in rows), default=1))
    axes.legend(fontsize=7, ncols=2, loc="upper center")


def _draw_matrix(axes: Any, matrix: list[list[float]], title: str) -> None:
    """Draw a matrix of layers by layers, layer 1 at the top left, each number in its square."""
    axes.set_axis_on()
    axes.imshow(matrix, cmap="viridis")
    middle = (min(map(min, matrix)) + max(map(max, matrix))) / 2
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
    numbers = range(len(matrix))
    labels = [str(number + 1) for number in numbers]
    axes.set_xticks(numbers, labels)
    axes.set_yticks(numbers, labels)
    axes.set(title=title, xlabel="layer of the second text", ylabel="layer of the first text")


def _save(figure: Any, paths: Sequence[Path]) -> None:
    figure.tight_layout()
    for path in paths:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:])
        with atomic_write(path) as file:
            file.write(picture.getvalue())
    plt.close(figure)
