"""What the model card says of the paper's own protocol, beside its published figures."""

from typing import Any

from eval.card.card_facts import described
from eval.card.card_results import Results
from eval.studies.paper_l12 import TABLES
from eval.studies.paper_published import DIFFERENCES

TITLES = (
    "Spearman correlation, depth and exits",
    "Mean cosine to the last layer, and the share of sentences that has left, by layer",
    "By theta",
    "Milliseconds at full depth and speedups, by batch size",
)


def protocol(results: Results) -> dict[str, Any] | None:
    """The paper's protocol; None where it was not run.

    Returns:
        `tables`: title -> header and rows, ready to print; `differences`: where it is not like for like;
        `data`, `steps`, `training`, `theta`, `seeds` (how many), `teacher` (its score), `teacher_layers`;
        `no_exits`: names of runs of which no sentence left before the last layer.
    """
    if results.paper is None:
        return None
    figures = results.paper["figures"]
    runs = figures["runs"]
    return {
        "tables": {title: table(runs) for title, table in zip(TITLES, TABLES, strict=True)},
        "differences": DIFFERENCES,
        "data": described(results.paper["data"]),
        "steps": figures["max_steps"],
        "training": figures["training"],
        "theta": figures["exit_threshold"],
        "seeds": max(len(run["seeds"]) for run in runs.values()),
        "teacher": figures["teacher"],
        "teacher_layers": figures["teacher_layers"],
        "no_exits": [name for name, run in runs.items() if _closed(run)],
    }


def _closed(run: dict[str, Any]) -> bool:
    """Whether, as printed, no sentence of its first seed left before the last layer."""
    return round(run["seeds"][0]["layers"][-2]["exited"], 3) == 0
