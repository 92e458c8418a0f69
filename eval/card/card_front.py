"""What the model card says of a front of exit rules beside cuts of the same mean depth, and of seeds."""

from typing import Any

from eval.card.card_facts import described, set_name
from eval.card.card_results import Results
from eval.studies.seeds import rows as seed_rows

# Baselines in the order of the table's columns.
BASELINES = ("cut", "line", "coin")


def front(results: Results) -> dict[str, Any] | None:
    """The front of `eval.quality.front`; None where it was not measured.

    Returns:
        `rules`, how many at least; `rows` of a table, ready to print: set and metric, and for each baseline
        the worst difference with its interval; `below`: set and metric, and how many rules are below a
        baseline of the same mean depth beyond noise, in words; `picture`: name of the plot, or None.
    """
    if results.front is None:
        return None
    figures = results.front["figures"]
    rows, below = [], []
    for found in figures["sets"]:
        label = f"{set_name(found)}, {found['metric']}"
        if found["documents"]:
            label += f", {found['documents']}"
        worst = found["worst"]
        rows.append([label, *(_worst(worst[name]) for name in BASELINES)])
        counts = {"line": worst["line"]["below"], "coin": worst["coin"]["below"]}
        if any(counts.values()):
            below.append(f"{label} (the line {counts['line']}, the coin {counts['coin']})")
    return {
        "rules": min(len(found["points"]) for found in figures["sets"]),
        "rows": rows,
        "below": below,
        "picture": results.pictures.get("front"),
    }


def _worst(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f}) at {found['mean_layer']:.2f}"


def seeds(results: Results) -> dict[str, Any] | None:
    """A recipe over seeds, of `eval.studies.seeds`; None where it was not measured.

    Returns:
        `rows`: label, and mean ± standard deviation; `seeds`, how many; `steps` of each run; `training`, its
        arguments; `data`, the pairs; `bound` of the mean exit layer.
    """
    if results.seeds is None:
        return None
    figures = results.seeds["figures"]
    return {
        "rows": seed_rows(figures),
        "seeds": len(figures["runs"]),
        "steps": figures["max_steps"],
        "training": figures["training"],
        "data": described(results.seeds["data"]),
        "bound": figures["max_mean_layer"],
    }
