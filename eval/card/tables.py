"""Markdown tables of figures, and display names of evaluation sets."""

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "-"
# Short names of evaluation sets -> what people call them, and their id on the Hub where it is the same set.
SETS = {
    "stsb": ("STS Benchmark", "mteb/stsbenchmark-sts"),
    "STS12": ("STS12", "mteb/sts12-sts"),
    "STS13": ("STS13", "mteb/sts13-sts"),
    "STS15": ("STS15", "mteb/sts15-sts"),
    "scifact": ("SciFact", "BeIR/scifact"),
    "arguana": ("ArguAna", "BeIR/arguana"),
    "cranfield": ("Cranfield", None),
    "cacm": ("CACM", None),
}


def table(rows: Any, columns: Sequence[str]) -> str:
    """A Markdown table; missing figures are left out, so that results of other versions still render.

    Args:
        rows: dictionaries; a mapping of names to them where a column is `name`; one dictionary; or None.
        columns: what to show, `LABEL=PATH:FORMAT`. PATH leads through nested figures (`exits.p50_ms`,
            `interval.0`) and is the label where there is no LABEL. FORMAT is Python's.

    Returns:
        The table, without columns and rows that hold no value; empty where none is left.
    """
    specs = [_column(column) for column in columns]
    by_name = any(path == "name" for _, path, _ in specs)
    if isinstance(rows, Mapping):
        named = ({"name": name} | row for name, row in rows.items() if isinstance(row, Mapping))
        rows = list(named) if by_name else [rows]
    cells = [[cell(find(row, path), form) for _, path, form in specs] for row in rows or ()]
    cells = [row for row in cells if any(text != MISSING for text in row[by_name:])]
    shown = [place for place in range(len(specs)) if any(row[place] != MISSING for row in cells)]
    if not shown:
        return ""
    lines = [[specs[place][0] for place in shown], ["---"] * len(shown)]
    lines += [[row[place] for place in shown] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(column: str) -> tuple[str, str, str]:
    label, _, path = column.rpartition("=")
    path, _, form = path.partition(":")
    return label or ("" if path == "name" else path.replace("_", " ")), path, form


def find(row: Any, path: str) -> Any:
    """The value at a path of keys and indices; None if there is none."""
    for key in path.split(".") if path else ():
        if isinstance(row, Mapping):
            row = row.get(key)
        elif isinstance(row, list) and key.lstrip("-").isdigit():
            row = next(iter(row[int(key) :]), None) if abs(int(key)) <= len(row) else None
        else:
            return None
    return row


def cell(value: Any, form: str = "") -> str:
    """A value as a table shows it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(part, form)}" for key, part in value.items() if part is not None)
    if isinstance(value, list):
        return ", ".join(cell(part, form) for part in value) or MISSING
    if value is None:
        return MISSING
    if isinstance(value, bool | str):
        return str(value).replace("|", "\\|")
    text = format(value, form or ("," if isinstance(value, int) else ".4g"))
    return text if text.strip("-0.,") else text.lstrip("-")  # no "-0.0000"


def interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval to follow its figure; empty if unknown."""
    return f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""


def set_name(data: Mapping[str, str]) -> str:
    """The usual name of a set, from `data` of its result."""
    return SETS.get(data["name"].partition("/")[0], (data["name"], None))[0]


def hub_id(data: Mapping[str, str]) -> str | None:
    """The set's id on the Hub; None if it is not there in this form."""
    return SETS.get(data["name"].partition("/")[0], (None, None))[1]


def fastest(peers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The time of one text in each model's fastest library, of the figures of `eval.speed.peers`.

    Returns:
        One for each kind of text and precision of a network: `texts`, `precision`, and milliseconds
        `teacher`, `full` and `exits`, None where it was not measured.
    """
    names = {"teacher": ("teacher", "full depth"), "full": ("leap", "full depth"), "exits": ("leap", "exits")}
    times: dict[tuple[str, ...], float] = {}
    for row in peers["rows"]:
        peer = peers["peers"][row["peer"]]
        if row["batch_size"] == 1 and peer["precision"] in ("float32", "int8"):
            key = (peer["precision"], row["texts"], peer["model"], row["variant"])
            times[key] = min(row["p50_ms"], times.get(key, row["p50_ms"]))
    kinds = dict.fromkeys(key[:2] for key in sorted(times, key=lambda key: key[0]))
    return [{"precision": kind[0], "texts": kind[1]}
            | {name: times.get((*kind, *key)) for name, key in names.items()}
            for kind in kinds]  # fmt: skip
