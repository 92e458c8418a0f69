"""s of every text against theta."""

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leap.page.analysis import Analysis, Rule

SKIPS, STAYS = "tab:orange", "tab:blue"


def plot_tests(found: Analysis, rule: Rule) -> Figure:
    """Draw s of every text as a dot, and the theta that it is held against as a bar.

    Args:
        found: N texts, drawn from the top, numbered from 1.
        rule: the exit rule.
    """
    count = len(found.texts)
    figure = Figure(figsize=(7, min(1.6 + 0.28 * count, 9)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    if not rule.thetas:
        axes.text(0.5, 0.5, "full depth: nothing is tested", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    numbers = range(1, count + 1)
    thetas = [rule.thetas[layer] for layer in found.tested_at]
    axes.scatter(thetas, numbers, marker="|", s=160, color="black", label="theta", zorder=2)
    for skips, colour, label in ((True, SKIPS, "skips layers"), (False, STAYS, "full depth")):
        rows = [row for row in range(count) if found.skips[row] == skips]
        if rows:
            places = [row + 1 for row in rows]
            axes.scatter(found.cosines[rows], places, s=45, color=colour, label=label, zorder=3)
    if len(rule.thetas) > 1:
        for number, layer, cosine in zip(numbers, found.tested_at, found.cosines, strict=True):
            axes.annotate(f"layer {layer}", (cosine, number), (6, -3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="s, the cosine with the layer before", ylabel="text", ylim=(count + 0.6, 0.4))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
