"""From results to what the model card says: tables, comparisons and the words that depend on them.

Figures are compared as they are printed, so that words and tables never disagree.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.card.card_results import Json, Results, start_of
from leap.encode.exits import theta_text
from leap.errors import UsageError

# Rows of the table of thresholds are at least this many layers of mean depth apart.
STEP_OF_DEPTH = 0.25
# Marks in a licence's name of one that forbids commercial use.
NON_COMMERCIAL = ("NC", "non-commercial")

# Short names of evaluation sets -> how people call them, and their id on the Hub where it is the same set.
SETS = {
    "stsb": ("STS Benchmark", "mteb/stsbenchmark-sts"),
    "STS12": ("STS12", "mteb/sts12-sts"),
    "STS13": ("STS13", "mteb/sts13-sts"),
    "STS15": ("STS15", "mteb/sts15-sts"),
    "scifact": ("SciFact", "BeIR/scifact"),
    "arguana": ("ArguAna", "BeIR/arguana"),
    "cranfield": ("Cranfield", None),
    "cacm": ("CACM", None),
    "nfcorpus-stopped-partial": ("NFCorpus, partial and without stop words", None),
}
# Training sources that are a data set of the Hub -> its id. The others came from GitHub and are none.
TRAINED_ON = {"stsb-train": "mteb/stsbenchmark-sts"}

# Files of texts that were made for the results -> what is in them.
FILES = {"held-out.txt": "of the training sources, not trained on"}


@dataclass(frozen=True)
class Comparison:
    """Exits beside fixed cuts of the same model on one set.

    Attributes:
        name: of the set.
        metric: what the scores are.
        exits: score with exits.
        mean_layer: mean exit layer of the texts that may leave.
        cut_layer: of the fixed cuts no deeper than that, the layer of the best one.
        cut: its score.
        between: score of fixed cuts interpolated linearly at `mean_layer`.
    """

    name: str
    metric: str
    exits: float
    mean_layer: float
    cut_layer: int
    cut: float
    between: float

    @property
    def beats_cut(self) -> bool:
        """Whether exits are above every fixed cut that costs no more layers."""
        return round(self.exits, 4) > round(self.cut, 4)

    @property
    def gain(self) -> float:
        """Exits over the line between the neighbouring cuts, as printed: at the same mean depth."""
        return round(round(self.exits, 4) - round(self.between, 4), 4)

    @property
    def beats_between(self) -> bool:
        """Whether exits are above the cuts and above the line between the neighbouring ones, too."""
        return self.beats_cut and self.gain > 0


def compare(
    name: str, metric: str, exits: float, mean_layer: float, static: list[Json], key: str
) -> Comparison:
    """Set exits against the fixed cuts `static`, whose scores are under `key`."""
    layers, scores = [cut["layer"] for cut in static], [cut[key] for cut in static]
    best = max((cut for cut in static if cut["layer"] <= mean_layer), key=lambda cut: round(cut[key], 4))
    between = float(np.interp(mean_layer, layers, scores))
    return Comparison(name, metric, exits, mean_layer, best["layer"], best[key], between)


def _parts(data: Json) -> tuple[str, str]:
    """Short name and split of a set; of a file of texts its name, and no split."""
    name, _, last = data["name"].rpartition("/")
    return (name, last) if name and "." not in last else (last, "")


def set_name(data: Json) -> str:
    """The name that people know a set by, from `data` of its result."""
    short = _parts(data)[0]
    return SETS.get(short, (short, None))[0]


def hub_id(data: Json) -> str | None:
    """The set's id on the Hub, from `data` of its result; None where it is not there in this form."""
    return SETS.get(_parts(data)[0], (None, None))[1]


def split(data: Json) -> str:
    """The split of a set, from `data` of its result; empty for a file of texts, which has none."""
    return _parts(data)[1]


def described(data: Json) -> str:
    """A set with its split: `STS Benchmark, test`; of a file its name, and what it holds if we made it."""
    if data["name"] in FILES:
        return f"{data['name']} ({FILES[data['name']]})"
    return ", ".join(part for part in (set_name(data), split(data)) if part)


def rule_words(rule: Json) -> str:
    """An exit rule in words: `theta 0.9, no exit before layer 2`, or `theta 0.8 at layer 3, ...`."""
    theta, first_layer = rule["exit_threshold"], rule["min_exit_layer"]
    if not isinstance(theta, list):
        return f"theta {theta_text(theta)}, no exit before layer {first_layer}"
    read = [
        f"{value:g} at layer {layer}"
        for layer, value in enumerate(theta[:-1], start=1)  # at the last layer all leave
        if layer >= first_layer and value is not None
    ]
    return "theta " + (", ".join(read) or "none")


def over_teacher(results: Results) -> list[Json]:
    """The retrieval results that searched the teacher's documents."""
    return [found for found in results.retrieval if "teacher_documents" in found["figures"]["settings"]]


def over_own(results: Results) -> list[Json]:
    """The retrieval results that searched documents embedded by the model itself."""
    return [found for found in results.retrieval if "exit_queries" in found["figures"]["settings"]]


def similarity_results(results: Results) -> list[Json]:
    """The model's results on similarity sets, STS-B's first."""
    return [results.sts, *(result for result, _ in results.similarity)]


def measured(results: Results) -> list[tuple[Json, str]]:
    """Every result that figures are drawn from, the model's first, each with a note on what it is of."""
    grids = [results.validation, results.pareto]
    found = [(results.sts, ""), (results.teacher, "the teacher"), *((grid, "") for grid in grids)]
    for result, teachers in results.similarity:
        found += [(result, ""), (teachers, "the teacher")]
    found += [
        (result, "") for result in [*results.retrieval, *results.latency, *results.peers, results.diagnosis]
    ]
    found += [(results.teacher_diagnosis, "the teacher"), *((result, "") for result in results.calibrations)]
    short = (results.baselines, results.ablation, results.seeds, results.paper)
    found += [(results.front, ""), *((result, "short runs") for result in short)]
    found += [(result, "") for result in results.reliability.values()]
    return [(result, note) for result, note in found if result]


def comparisons(results: Results) -> list[Comparison]:
    """Exits beside fixed cuts on every set: STS-B, the other similarity sets, then the retrieval sets."""
    found = []
    for result in similarity_results(results):
        figures = result["figures"]
        exits = figures["exits"]
        found.append(
            compare(
                set_name(result["data"]),
                "Spearman",
                exits["spearman"],
                exits["mean_exit_layer"],
                figures["static"],
                "spearman",
            )
        )
    for result in over_teacher(results):
        setting = result["figures"]["settings"]["teacher_documents"]
        found.append(
            compare(
                set_name(result["data"]),
                "nDCG@10",
                setting["ndcg@10"],
                setting["mean_query_layer"],
                result["figures"]["static_queries"],
                "ndcg@10",
            )
        )
    return found


def thresholds(results: Results) -> list[Json]:
    """Points of the exit rule on STS-B test, from loose to strict, the config's own among them (`chosen`).

    Without the grid on the test split it is the only one. Of the grid, points of the config's first layer are
    taken, those with thresholds that were timed or searched with, too; where there are none of these, points
    `STEP_OF_DEPTH` of mean depth apart: never picked for their score on the test.
    """
    named = {found["exit_threshold"] for result in results.latency for found in _further(result)}
    named |= {found["exit_threshold"] for result in results.retrieval for found in _searched(result)}
    chosen = results.sts["figures"]["exits"] | {"chosen": True}
    points = [chosen]
    grid = results.pareto["figures"]["grid"] if results.pareto else []
    for point in sorted(grid, key=lambda point: (point["mean_exit_layer"], -point["exit_threshold"])):
        same_first_layer = point["min_exit_layer"] == results.config["min_exit_layer"]
        depth = point["mean_exit_layer"]
        apart = all(abs(depth - p["mean_exit_layer"]) >= STEP_OF_DEPTH for p in points)
        wanted = point["exit_threshold"] in named if named else apart
        if same_first_layer and wanted and point["exit_threshold"] != chosen["exit_threshold"]:
            points.append(point | {"chosen": False})
    return sorted(points, key=lambda point: point["mean_exit_layer"])


def _further(latency: Json) -> list[Json]:
    """The thresholds timed beside the config's."""
    return latency["figures"].get("thresholds", [])


def _searched(retrieval: Json) -> list[Json]:
    """The thresholds that queries over the teacher's documents left by, beside the config's."""
    return retrieval["figures"].get("grid") or []


def _of_theta(found: list[Json], theta: float) -> list[Json]:
    return [point for point in found if point["exit_threshold"] == theta]


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """The main table: teacher, full depth, thresholds and fixed cuts; quality, depth and speed.

    Returns:
        The names of the columns, and the rows, cells ready to print.
    """
    sets, devices = over_teacher(results), results.latency
    figures, layers = results.sts["figures"], results.config["num_hidden_layers"]
    header = ["", "mean layer", "STS-B test, Spearman", *(f"{set_name(r['data'])} nDCG@10" for r in sets)]
    header += [f"speedup, {speed_conditions(found)}" for found in devices]

    def score(setting: Json) -> str:
        depth = setting["mean_query_layer"]
        return f"{setting['ndcg@10']:.4f}" + ("" if depth is None else f" (mean layer {depth:.2f})")

    def scores(name: str) -> list[str]:
        return [score(result["figures"]["settings"][name]) for result in sets]

    def further(theta: float) -> list[str]:
        searched = [_of_theta(_searched(result), theta) for result in sets]
        timed = [_of_theta(_further(result), theta) for result in devices]
        cells = [score(found[0]) if found else "-" for found in searched]
        return cells + [_range([point["speedup"] for point in found]) if found else "-" for found in timed]

    def static(layer: int) -> list[str]:
        return [f"{result['figures']['static_queries'][layer - 1]['ndcg@10']:.4f}" for result in sets]

    speeds = ["-"] * len(devices)
    teacher = results.teacher["figures"]["full_depth"]["spearman"]
    teacher_layers = results.teacher["models"]["model"]["layers"]
    rows = [
        ["teacher", str(teacher_layers), f"{teacher:.4f}", *scores("teacher"), *speeds],
        ["full depth", str(layers), f"{figures['full_depth']['spearman']:.4f}", *static(layers)]
        + ["1" for _ in devices],
    ]
    for point in thresholds(results):
        label = f"exits, theta {theta_text(point['exit_threshold'])}"
        row = [f"**{label}**" if point["chosen"] else label]
        row += [f"{point['mean_exit_layer']:.2f}", f"{point['spearman']:.4f}"]
        if point["chosen"]:
            row += scores("teacher_documents") + [speed_range(found) for found in devices]
        else:
            row += further(point["exit_threshold"])
        rows.append(row)
    for cut in figures["static"][:-1]:
        layer = cut["layer"]
        rows.append(
            [f"cut after layer {layer}", str(layer), f"{cut['spearman']:.4f}", *static(layer), *speeds]
        )
    return header, rows


def device_name(result: Json) -> str:
    """What a result was measured on: `cpu, 2 threads`, or the accelerator's name."""
    machine, figures = result["provenance"]["machine"], result["figures"]
    if figures["device"] == "cpu":
        return f"{machine['processor']}, {threads(figures['threads'])}"
    return machine.get("accelerator", figures["device"])


def threads(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread" + ("s" if count != 1 else "")


def speed_conditions(result: Json) -> str:
    """Of which rows `speed_range` is: device and batch size."""
    return f"{device_name(result)}, batch {_least_batch(result)[0]['batch_size']}"


def speed_range(result: Json) -> str:
    """The speedups at the smallest batch, of all lengths."""
    return _range([row["speedup"] for row in _least_batch(result)])


def _range(speeds: list[float]) -> str:
    low, high = f"{min(speeds):.2f}", f"{max(speeds):.2f}"
    return low if low == high else f"{low} to {high}"


def slow_rows(result: Json) -> list[Json]:
    """The rows of a latency result at which exits were no faster than full depth."""
    return [row for row in result["figures"]["rows"] if round(row["speedup"], 2) <= 1]


def above_possible(result: Json) -> bool:
    """Whether a speedup exceeds what the layers saved allow, which only a disturbed measurement gives."""
    return any(round(row["share_of_possible"], 2) > 1 for row in result["figures"]["rows"])


def _least_batch(result: Json) -> list[Json]:
    rows = result["figures"]["rows"]
    least = min(row["batch_size"] for row in rows)
    return [row for row in rows if row["batch_size"] == least]


def enough_layer(static: list[Json], key: str) -> int:
    """The first fixed cut that scores no less than full depth."""
    return next(cut["layer"] for cut in static if round(cut[key], 4) >= round(static[-1][key], 4))


def training(results: Results) -> dict[str, Any]:
    """The training runs side by side.

    Returns:
        `names` of the runs, in order; `rows` of a table, a label and then one cell a run; `seen`, texts of
        all runs with repetitions; `longest`, tokens of a text that any run took; `averaged`, the shares of
        runs in the released weights, None where they are of the last one.
    """
    runs = results.training
    batches = [
        run["batch_size"] * run["gradient_accumulation_steps"] * run["processes"] for run in runs.values()
    ]
    seen = [run["steps"] * batch for run, batch in zip(runs.values(), batches, strict=True)]
    columns = [
        {
            "starts from": _start(results, name),
            "not trained": _frozen(run),
            "different texts": f"{run['texts']:,}",
            "steps": f"{run['steps']:,} of {batch} texts",
            "texts seen": f"{count:,}",
            "tokens a text, at most": str(run["max_length"]),
            "learning rate": f"{run['learning_rate']:g}, {run['schedule']}, warm-up {run['warmup']:g}",
            "mixed precision": run["mixed_precision"],
            "objective": f"`{run['recipe']}`: " + ", ".join(f"{k} {v}" for k, v in run["objective"].items()),
        }
        for (name, run), batch, count in zip(runs.items(), batches, seen, strict=True)
    ]
    return {
        "names": list(runs),
        "rows": [[label, *(column[label] for column in columns)] for label in columns[0]],
        "seen": sum(seen),
        "longest": max(run["max_length"] for run in runs.values()),
        "averaged": _averaged(results),
    }


def _averaged(results: Results) -> str | None:
    if results.average is None:
        return None
    share = results.average["share"]
    first, second = (
        start_of({"student": results.average[key]}, results.training) for key in ("first", "second")
    )
    return f"{1 - share:g} of `{first}`, {share:g} of `{second}`"


def _start(results: Results, name: str) -> str:
    run = results.training[name]
    earlier = start_of(run, results.training, name)
    source = f"run `{earlier}`" if earlier else ("the teacher" if run["student"] is None else "another model")
    layers = run["student_layers"]
    return f"layers `{layers}` of {source}" if layers else f"all layers of {source}"


def _frozen(run: Json) -> str:
    parts = [] if run["train_word_embeddings"] else ["word embeddings"]
    if run["frozen_layers"]:
        parts.append(f"layers 1 to {run['frozen_layers']}")
    return ", ".join(parts) or "nothing"


def sources(results: Results) -> dict[str, Any]:
    """Where the training text comes from.

    Returns:
        `used`: licence -> its rows; `names` of all of these; `left_out`: rows that every run excluded;
        `restricted`: rows used whose licence forbids commercial use.

    Raises:
        UsageError: a run excluded a source that card_sources.csv does not know.
    """
    excluded = set.intersection(*(set(run["exclude_sources"]) for run in results.training.values()))
    known = {row["source"] for row in results.sources}
    if excluded - known:
        raise UsageError(
            f"card_sources.csv: has no row for {', '.join(sorted(excluded - known))}, which training "
            "excluded: add it"
        )
    used: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in results.sources:
        if row["source"] not in excluded:
            used[row["licence"]].append(row)
    return {
        "names": [row["source"] for rows in used.values() for row in rows],
        "used": dict(sorted(used.items())),
        "left_out": [row for row in results.sources if row["source"] in excluded],
        "restricted": [
            row
            for licence, rows in used.items()
            for row in rows
            if any(mark in licence for mark in NON_COMMERCIAL)
        ],
    }


def trained_on(results: Results) -> list[str] | None:
    """Ids of the data sets of the Hub that texts were trained on; None where there are none."""
    return [TRAINED_ON[name] for name in sources(results)["names"] if name in TRAINED_ON] or None
