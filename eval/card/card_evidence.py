"""What the model card says of convergence, guarantees, other methods and the objective's variants.

As in `eval.card.card_facts`, figures are compared as they are printed.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.card.card_facts import (
    SETS,
    compare,
    described,
    over_own,
    over_teacher,
    rule_words,
    set_name,
    threads,
)
from eval.card.card_results import RULE, Json, Results

CALIBRATE = "python -m eval calibrate --model . --data my_texts.txt --alpha 0.05 --delta 0.1 --write"
ASKED = 0.95  # theta, of the short runs' exit rates
# The paper's limit of what exits may lose, as a share of full depth's score.
MAX_LOSS = 0.01
# A share of texts leaving at one layer, from which exits are in effect a cut at that layer.
ALL_BUT_A_CUT = 0.9
# The layer whose cut the short runs are compared by: half of the teacher's.
CUT_LAYER = 3
OURS = "LEAP"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def fidelity(results: Results) -> Json | None:
    """How close to full depth the chosen rule and fixed cuts keep embeddings; None where it is not known.

    Returns:
        `data`; `mean_layer`; `rows` of a label, exits and cuts, ready to print; `closer`: who is, by row.
    """
    chosen = results.validation["figures"].get("chosen") or {}
    rule = {key: value for key, value in results.rule.items() if key in chosen}
    if "fidelity_mean" not in chosen or any(chosen[key] != value for key, value in rule.items()):
        return None
    rows, closer = [], []
    for key, label in (("fidelity_mean", "mean"), ("fidelity_p5", "5th percentile")):
        exits, cuts = f"{chosen[key]:.4f}", f"{chosen['static_at_mean_layer'][key]:.4f}"
        rows.append([label, exits, cuts])
        closer.append("neither" if exits == cuts else "exits" if exits > cuts else "fixed cuts")
    return {
        "data": described(results.validation["data"]),
        "mean_layer": chosen["mean_exit_layer"],
        "rows": rows,
        "closer": closer,
    }


def choice_words(chosen: Json) -> str:
    """By which of its bounds `eval.quality.pareto` chose the exit rule."""
    loss, depth = chosen.get("max_loss"), chosen.get("max_mean_layer")
    words = "the best Spearman correlation"
    if loss is not None:
        words = "the one of the least mean layer whose Spearman correlation is at most "
        words += f"{loss:g} below full depth's"
    return words + (f", at a mean layer of at most {depth:g}" if depth is not None else "")


def similarity(results: Results) -> list[list[str]]:
    """Rows of the other similarity sets: set, teacher, full depth, exits, the best cut no deeper."""
    rows = []
    for result, teachers in results.similarity:
        figures = result["figures"]
        exits = figures["exits"]
        found = compare("", "", exits["spearman"], exits["mean_exit_layer"], figures["static"], "spearman")
        rows.append(
            [
                f"{set_name(result['data'])}, {figures['pairs']:,} pairs",
                f"{teachers['figures']['full_depth']['spearman']:.4f}" if teachers else "-",
                f"{figures['full_depth']['spearman']:.4f}",
                f"{exits['spearman']:.4f} (mean layer {exits['mean_exit_layer']:.2f})",
                f"{found.cut:.4f} (layer {found.cut_layer})",
            ]
        )
    return rows


@dataclass(frozen=True)
class Depths:
    """How embeddings of different depths compare in a model, at layers from the first exit on.

    Attributes:
        name: of the model, in words.
        first: the first layer, l_min.
        last: L.
        lowest: Spearman correlation of the worst pair of layers; None without gold similarities.
        lowest_at: these layers, in words.
        mixed_loss: the most that a pair of different layers loses against the worse of the two by itself, as
            printed; 0 where none loses.
        mixed_at: these layers.
        last_alone: the correlation with both texts at the last layer.
        random: mean cosine of unrelated texts with both at the first layer, one at the first and one at the
            last, both at the last.
    """

    name: str
    first: int
    last: int
    lowest: float | None
    lowest_at: str
    mixed_loss: float
    mixed_at: tuple[int, int]
    last_alone: float | None
    random: tuple[float, float, float]

    @property
    def random_range(self) -> float:
        """The greatest difference of the three mean cosines of unrelated texts, as printed."""
        printed = [round(value, 2) for value in self.random]
        return round(max(printed) - min(printed), 2)


def depths(name: str, figures: Json, first: int) -> Depths:
    """Of the `comparability` in `figures` of `diagnose`, what concerns layers from `first` on."""
    random = figures["comparability"]["random_cosine"]
    scores = figures["comparability"].get("spearman")
    last = len(random)
    layers = range(first, last + 1)
    lowest, at, mixed_loss, mixed_at = None, (first, first), 0.0, (first, last)
    if scores:
        printed = {(a, b): round(scores[a - 1][b - 1], 4) for a in layers for b in layers}
        lowest, at = min((score, pair) for pair, score in printed.items())
        mixed_loss, mixed_at = max(
            (round(min(printed[a, a], printed[b, b]) - score, 4), (a, b)) for (a, b), score in printed.items()
        )
    return Depths(
        name=name,
        first=first,
        last=last,
        lowest=lowest,
        lowest_at=f"both texts at layer {at[0]}"
        if at[0] == at[1]
        else f"the texts at layers {at[0]} and {at[1]}",
        mixed_loss=mixed_loss,
        mixed_at=mixed_at,
        last_alone=scores[-1][-1] if scores else None,
        random=(random[first - 1][first - 1], random[first - 1][-1], random[-1][-1]),
    )


def convergence(results: Results) -> Json | None:
    """The paper's diagnostics of the model and its teacher side by side; None where it was not measured.

    Returns:
        `theta`, `first_layer`, `data` and `machine` they are of; `names` of the columns after the first;
        `rows` ready to print; `pictures`: by name; `depths`: of each; `one_layer`: the layer at which nearly
        all texts leave this model, None where there is none, and `one_layer_share` of them.
    """
    if results.diagnosis is None:
        return None
    first = results.config["min_exit_layer"]
    both = {"this model": results.diagnosis, "the teacher": results.teacher_diagnosis}
    found = {name: result["figures"] for name, result in both.items() if result}
    stems = {"this model": "diagnose-stsb", "the teacher": "diagnose-stsb-teacher"}
    own = found["this model"]
    rates = own["exits"]["rate"]
    often = max(range(len(rates) - 1), key=rates.__getitem__)
    machine = results.diagnosis["provenance"]["machine"]
    return {
        "theta": own["exit_threshold"],
        "first_layer": own["min_exit_layer"],
        "data": described(results.diagnosis["data"]),
        "machine": machine.get("accelerator", f"{machine['processor']}, {threads(machine['threads'])}"),
        "names": list(found),
        "rows": [*_layer_rows(list(found.values())), *_verdict_rows(list(found.values()))],
        "pictures": {
            name: results.pictures[stems[name]] for name in found if stems[name] in results.pictures
        },
        "depths": [depths(name, figures, first) for name, figures in found.items()],
        "one_layer": often + 1 if rates[often] >= ALL_BUT_A_CUT else None,
        "one_layer_share": _percent(rates[often]),
    }


def _layer_rows(models: list[Json]) -> Iterator[list[str]]:
    """For each layer the mean cosine to the last one, and the share of texts that leaves there."""
    for layer in range(max(len(figures["similarity_curve"]) for figures in models)):
        row = [f"layer {layer + 1}: cosine, leave"]
        for figures in models:
            curve, rate = figures["similarity_curve"], figures["exits"]["rate"]
            row.append(f"{curve[layer]:.3f}, {_percent(rate[layer])}" if layer < len(curve) else "-")
        yield row


def _verdict_rows(models: list[Json]) -> Iterator[list[str]]:
    """Mean exit layer, each diagnostic with its reason, and the verdict."""
    yield ["mean exit layer", *(f"{figures['exits']['mean_exit_layer']:.2f}" for figures in models)]
    reasons = [figures["verdict"]["reasons"] for figures in models]
    for same in zip(*reasons, strict=True):
        cells = [reason["text"].removeprefix(f"{reason['diagnostic']}, ") for reason in same]
        yield [same[0]["diagnostic"], *cells]
    yield ["**exits early**", *("**yes**" if m["verdict"]["exits_early"] else "**no**" for m in models)]


def guarantees(results: Results) -> Json | None:
    """Thresholds with a guarantee; None where there are none.

    Returns:
        `rows` of a table, strictest bound first; `pairs`: whether some are of sentence pairs; `simulated`:
        texts of a resample, where the guarantee was tried on resamples.
    """
    found = [(calibration["figures"], calibration["data"]) for calibration in results.calibrations]
    certificate = results.certificate
    if certificate and not any(_is_of(certificate, figures, data) for figures, data in found):
        found.append((certificate, certificate["data"]))
    if not found:
        return None
    found.sort(key=lambda pair: (pair[0]["alpha"], pair[0]["delta"], pair[1]["name"]))
    rows = []
    for figures, data in found:
        in_use = all(figures[key] == results.config[key] for key in RULE)
        theta = rule_words(figures).removeprefix("theta ")
        rows.append(
            [
                f"{figures['alpha']:g}",
                f"{figures['delta']:g}",
                f"{figures['n']:,}",
                described(data),
                f"**{theta}, as in `config.json`**" if in_use else theta,
                f"{figures['risk']:.4f}",
                f"{figures['mean_exit_layer']:.2f}",
                _held(figures),
            ]
        )
    tried = [figures["simulation"] for figures, _ in found if "simulation" in figures]
    return {
        "rows": rows,
        "pairs": any(data["name"].rpartition("/")[0] in SETS for _, data in found),
        "simulated": sorted({f"{simulation['texts']:,}" for simulation in tried}),
    }


def _is_of(certificate: Json, figures: Json, data: Json) -> bool:
    same = all(certificate[key] == figures[key] for key in (*RULE, "alpha", "delta", "n"))
    return same and certificate["data"] == data


def _held(figures: Json) -> str:
    """In what share of the resamples the guarantee held, ready to print; "-" where it was not tried."""
    tried = figures.get("simulation")
    return "-" if tried is None else f"{_percent(tried['holding'])} of {tried['resamples']:,}"


def query_losses(results: Results) -> list[Json]:
    """What query exits change in nDCG@10 on every retrieval set, over each kind of documents measured.

    Returns:
        For each: `name` of the set, `documents` (whose), `full` and `exits`, the scores, `loss`, the share of
        full depth's that exits lose (below 0: gain), and whether that is `too_much`.
    """
    found = []
    for result in over_teacher(results):
        figures = result["figures"]
        full = figures["static_queries"][-1]
        found.append((result, "the teacher's documents", full, figures["settings"]["teacher_documents"]))
    for result in over_own(results):
        settings = result["figures"]["settings"]
        found.append((result, "its own documents", settings["full_depth"], settings["exit_queries"]))
    rows = []
    for result, documents, full, exits in found:
        before, after = round(full["ndcg@10"], 4), round(exits["ndcg@10"], 4)
        loss = (before - after) / before if before else 0.0
        rows.append(
            {
                "name": set_name(result["data"]),
                "documents": documents,
                "full": before,
                "exits": after,
                "loss": loss,
                "too_much": loss > MAX_LOSS,
            }
        )
    return rows


def left_early(results: Results) -> str | None:
    """The share of STS-B test sentences that leave before the last layer, in per cent."""
    histogram = results.sts["figures"]["exits"]["exit_histogram"]
    return _percent(sum(histogram[:-1]) / sum(histogram))


def _spread(point: Json | None) -> str:
    """A mean over seeds with its standard deviation, if there is one."""
    if point is None:
        return "-"
    deviation = point["spearman_sd"]
    return f"{point['spearman']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def baselines(results: Results) -> Json | None:
    """LEAP beside other methods, all trained for the same short while; None where it was not measured.

    Returns:
        `figures` as measured; `pairs` they are of; `rows` of the table, best first; `losses`: other method ->
        where it is above LEAP, in words; `behind`: methods that are above it nowhere; `swaps`, in words.
    """
    if results.baselines is None:
        return None
    figures = results.baselines["figures"]
    methods, ranking = figures["methods"], figures["ranking"]
    rows = []
    for name in ranking["order"]:
        static = methods[name]["static_mean"]
        early = [run["exited_095"] for run in methods[name]["runs"]]
        score = ranking["scores"].get(name)
        rows.append(
            [
                f"**{name}**" if name == OURS else name,
                methods[name]["what"],
                _spread(static[-1]),
                _spread(score and {"spearman": score["mean"], "spearman_sd": score["sd"]}),
                _spread(_cut(static, CUT_LAYER)),
                _percent(sum(early) / len(early)),
            ]
        )
    losses = {name: _losses(figures, name) for name in methods if name != OURS and OURS in methods}
    return {
        "figures": figures,
        "pairs": _pairs(results.baselines),
        "rows": rows,
        "losses": {name: words for name, words in losses.items() if words},
        "behind": [name for name, words in losses.items() if not words],
        "swaps": [" and ".join(swap) if isinstance(swap, list) else str(swap) for swap in ranking["swaps"]],
    }


def _pairs(result: Json) -> str:
    """The set that short runs are judged by: their data are the texts trained on."""
    words = shlex.split(result["provenance"]["command"])
    name = words[words.index("--sts") + 1] if "--sts" in words else "stsb"
    return set_name({"name": f"{name}/"})


def _cut(static: list[Json], layer: int) -> Json | None:
    return next((cut for cut in static if cut["layer"] == layer), None)


def _measures(figures: Json, name: str) -> dict[str, float | None]:
    """Every score by which a method may be above another, by what it is."""
    method = figures["methods"][name]
    static = method["static_mean"]
    cut = _cut(static, CUT_LAYER)
    found = {
        "at full depth": static[-1]["spearman"],
        "by ranking score": figures["ranking"]["scores"].get(name, {}).get("mean"),
        f"when cut after layer {CUT_LAYER}": cut and cut["spearman"],
    }
    for budget, point in zip(figures["budgets"], method["exits_mean"], strict=True):
        found[f"with exits at mean layer {budget:g} or less"] = point and point["spearman"]
    return found


def _losses(figures: Json, name: str) -> list[str]:
    """Where a method is above LEAP: `at full depth (0.8100 against 0.8000)`."""
    ours, theirs = _measures(figures, OURS), _measures(figures, name)
    return [
        f"{what} ({theirs[what]:.4f} against {ours[what]:.4f})"
        for what in ours
        if ours[what] is not None
        and theirs[what] is not None
        and round(theirs[what], 4) > round(ours[what], 4)
    ]


def ablation(results: Results) -> dict[str, Any] | None:
    """Variants of the objective and of the start, each trained shortly; None where they were not run.

    Returns:
        `texts` and `learning_rate` of each run; `pairs` it is judged by; `layer`, the inner one shown;
        `rows`: variant, cosine to the teacher of that layer and of the last, Spearman of the two, and that of
        texts at mixed depths.
    """
    if results.ablation is None:
        return None
    figures = results.ablation["figures"]
    rows = []
    for name, run in figures["runs"].items():
        row = [name]
        for key in ("cosine_to_teacher", "spearman"):
            values = run[key]
            row += [f"{values[CUT_LAYER - 1]:.3f}" if len(values) >= CUT_LAYER else "-", f"{values[-1]:.3f}"]
        rows.append([*row, f"{run['mixed']:.3f}"])
    return {
        "texts": figures["texts"],
        "learning_rate": figures["learning_rate"],
        "pairs": f"the first {figures.get('pairs', 500)} pairs of {_pairs(results.ablation)}",
        "layer": CUT_LAYER,
        "rows": rows,
    }
