"""A picture of the front: error over cost on the mixed set, with the rivals."""

from pathlib import Path
from typing import Any

from eval.plot import plt, save
from eval.quality.text_sets import MIXED

STYLES = {
    "coin": ("0.45", "--", "coin, same network"),
    "shortest first": ("C2", "-.", "shortest texts first"),
    "students": ("C1", "--", "coin, students of 3 and 4 layers"),
    "student and teacher": ("C4", ":", "coin, 3-layer student and teacher"),
    "ridge": ("C0", ":", "linear map of the state, for comparison"),
}
PANELS = {"mean": "mean", "p95": "95th percentile", "p99": "99th percentile"}


def draw_front(figures: dict[str, Any], *paths: Path) -> None:
    """Draw mean, p95 and p99 of the error over layers per text, for exits and each available rival.

    Args:
        figures: of `eval.quality.front`.
        *paths: files to write; the ending of each says of what kind.
    """
    found = figures["sets"][MIXED]
    points = sorted(found["front"], key=lambda point: point["layers"])
    layers = [point["layers"] for point in points]
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.3), dpi=150)
    for axes, (statistic, title) in zip(panels, PANELS.items(), strict=True):
        for name, (color, style, label) in STYLES.items():
            if name in points[0]["at_equal_layers"]:
                values = [point["at_equal_layers"][name][statistic] for point in points]
                axes.plot(layers, values, color=color, linestyle=style, linewidth=1.4, label=label)
        low, high = zip(*(point["intervals"][statistic] for point in points), strict=True)
        axes.fill_between(layers, low, high, color="crimson", alpha=0.15, linewidth=0)
        axes.plot(
            layers,
            [p[statistic] for p in points],
            color="crimson",
            marker=".",
            linewidth=2,
            label="exits (95 %)",
        )
        rule = found["default"]
        axes.plot(
            rule["layers"],
            rule[statistic],
            color="crimson",
            marker="*",
            markersize=14,
            linestyle="none",
            label=f"default, theta {rule['exit_threshold']:g}",
        )
        axes.set(title=f"{title} of the error", xlabel="layers a text", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("1 - cos to the teacher")
    figure.suptitle(f"{found['texts']} mixed texts that training did not see")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=9, frameon=False)
    save(figure, paths, bottom=0.14)
