"""The curve of s_l by layer of every text, with the threshold that it has to reach."""

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from leap.page.analysis import Analysis, Rule

NAMED = 8  # texts that get a colour and a line in the legend


def plot_curves(found: Analysis, rule: Rule) -> Figure:
    """Draw s_l = cos(p_l, p_(l-k)) over l for every text, a dot where it leaves, and theta as dashes."""
    count, depth = found.cosines.shape
    first = rule.patience + 1
    layers = range(first, depth + 1)
    colours = matplotlib.colormaps["tab10"].colors
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")  # not pyplot, which keeps every figure
    axes = figure.add_subplot()
    for row in range(count):
        named = row < NAMED
        colour = colours[row] if named else "0.7"
        axes.plot(
            layers,
            found.cosines[row, first - 1 :],
            color=colour,
            linewidth=1.6 if named else 0.8,
            label=_label(row + 1, found.texts[row]) if named else None,
            zorder=3 if named else 2,
        )
        left = found.layers[row]
        axes.plot(left, found.cosines[row, left - 1], marker="o", markersize=6, color=colour, zorder=4)
    label = "theta"
    for number, theta in enumerate(rule.thetas(depth), start=1):
        if theta is not None:
            axes.hlines(
                theta, number - 0.5, number + 0.5, color="black", linestyle="--", linewidth=1.2, label=label
            )
            label = None
    axes.set(xlabel="layer", ylabel="cosine with the layer before", xlim=(first - 0.5, depth + 0.5))
    if rule.patience > 1:
        axes.set_ylabel(f"cosine with {rule.patience} layers before")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    more = f", the other {count - NAMED} in grey" if count > NAMED else ""
    axes.set_title(f"A dot is where a text leaves{more}", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _label(number: int, text: str, width: int = 34) -> str:
    """The number and the beginning of the text; the number alone where the font lacks a letter of it."""
    start = text if len(text) <= width else text[: width - 1] + "…"
    letters = get_font(findfont(FontProperties())).get_charmap()
    if any(ord(letter) not in letters for letter in start):
        return f"text {number}"
    return f"{number}. {start}".replace("$", r"\$")  # two dollar signs would be set as a formula
