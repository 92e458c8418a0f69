"""What the card and docs/reliability.md say of `fuzz`, `correctness` and `endurance`; rows ready to print."""

from typing import Any

from eval.card.card_results import Json, Results
from leap.encode.exits import theta_text

# The names of paths, in words.
PATHS = {
    "alone": "torch, one text at a time, repeated",
    "batches": "torch, batches that texts leave one by one",
    "onnx": "ONNX Runtime, batches that texts leave one by one",
    "onnx-single": "ONNX Runtime, one file with the exits inside",
    "onnx-int8": "ONNX Runtime int8, batches that texts leave one by one",
    "onnx-single-int8": "ONNX Runtime int8, one file with the exits inside",
}


def correctness(results: Results) -> Json | None:
    """Fast paths beside one text at a time; None where it was not measured.

    Returns:
        `figures` as measured; `in_tie_band`: texts of each theta; `rows`: path, theta, mean exit layer,
        texts at another layer, with another embedding, at another layer within the tie band, largest
        difference; `rounded`: path, theta, mean, first percentile and lowest cosine, texts at another
        layer, of paths of other weights; `left_out`: paths that could not run.
    """
    found = results.reliability.get("correctness")
    if found is None:
        return None
    figures = found["figures"]
    rows, rounded = [], []
    for measured in (figures, *figures["further"]):
        for name, path in measured["paths"].items():
            words = [PATHS.get(name, name), theta_text(measured["exit_threshold"])]
            if path["exact"]:
                counts = ("other_exit_layer", "other_embedding", "other_exit_layer_in_tie_band")
                words += [f"{path['mean_exit_layer']:.2f}", *(f"{path[key]:,}" for key in counts)]
                rows.append([*words, f"{path['largest_difference']:.1e}"])
            else:
                same = path["layers_later"].get("0", 0)
                cosines = (path["cosine_mean"], path["cosine_quantiles"]["0.01"], path["cosine_lowest"])
                other = 100 * (1 - same / figures["texts"])
                rounded.append([*words, *(f"{value:.4f}" for value in cosines), f"{other:.1f} %"])
    return {
        "figures": figures,
        "rows": rows,
        "rounded": rounded,
        "in_tie_band": [measured["in_tie_band"] for measured in (figures, *figures["further"])],
        "left_out": [PATHS.get(name, name) for name in figures["left_out"]],
    }


def fuzz(results: Results) -> Json | None:
    """Random calls of the tiny model and of this one; None where it was not measured.

    Returns:
        `figures` as measured; `rows`: kind of input, calls, right, clear errors, failures, of both models.
    """
    found = results.reliability.get("fuzz")
    if found is None:
        return None
    figures = found["figures"]
    both = [figures["tiny"]["kinds"], figures["model"]["kinds"]]
    rows = []
    for kind in sorted({*both[0], *both[1]}):
        calls, right, errors = (
            sum(kinds.get(kind, {}).get(key, 0) for kinds in both)
            for key in ("calls", "right", "clear_errors")
        )
        rows.append([kind, *(f"{count:,}" for count in (calls, right, errors, calls - right - errors))])
    return {"figures": figures, "rows": rows, "seed": found["provenance"]["seed"]}


def endurance(results: Results) -> Json | None:
    """The long run; None where it was not measured.

    Returns:
        `figures` as measured; `minutes`; `rows`: what was promised, the bound, what was seen, whether kept.
    """
    found = results.reliability.get("endurance")
    if found is None:
        return None
    figures: dict[str, Any] = found["figures"]
    growth = figures["memory_growth"]
    grown = "not known" if growth is None else f"{growth / 2**20:+.1f} MiB"
    drift = max(figures["drift"].values())
    moved = sum(figures["probes_at_other_layers"].values())
    rows = [
        [
            "memory, from the second tenth of the time to the last",
            f"at most {figures['memory_bound'] / 2**20:.0f} MiB more",
            grown,
            "memory",
        ],
        [
            f"the same texts encoded {figures['probes']} times",
            f"within {figures['drift_bound']:g}, same exit layers",
            f"{drift:.1e}, {moved} with another exit layer",
            "drift",
        ],
        [
            "texts a second, last tenth over first",
            f"at least {figures['speed_bound']:g}",
            f"{figures['last_over_first_tenth']:.2f}",
            "speed",
        ],
        ["errors", "none", str(len(figures["errors"])), "errors"],
    ]
    return {
        "figures": figures,
        "minutes": f"{figures['seconds'] / 60:.0f}",
        "rows": [[*row[:3], "yes" if figures["kept"][row[3]] else "**no**"] for row in rows],
    }


def survival(figures: Json) -> list[list[str]]:
    """Rows of `eval.stress.survival`: what was done, how often, how often nothing was lost.

    Args:
        figures: of its result.
    """
    rows = []
    for key, words in (("training", "training"), ("encoding", "corpus encoding")):
        killed, disk = figures[key]["killed"], figures[key]["full_disk"]
        inside = killed["inside_a_write"]
        same = sum(run["kills"] for run in killed["runs"] if run["same_bits"])
        rows.append(
            [
                f"{words} killed at a random moment ({inside} times inside a write), resumed",
                str(killed["kills"]),
                f"{same}: the same bits as unbroken",
            ]
        )
        if disk["tried"]:
            held = (
                disk["stopped"] and disk["one_line"] and not disk["half_written_left"] and disk["same_bits"]
            )
            rows.append(
                [f"{words} on a disk that fills up, resumed with room", "1", f"{int(held)}: one line"]
            )
    damaged = figures["training"]["damaged_checkpoints"]
    back = sum(row["warned"] and row["went_back"] and row["same_bits"] for row in damaged)
    rows.append(
        ["newest checkpoint cut, flipped or removed", str(len(damaged)), f"{back}: back to the one before"]
    )
    broken = figures["broken_data"]
    flags = ("stopped", "names_the_file", "no_traceback", "nothing_made")
    named = sum(all(row[flag] for flag in flags) for row in broken)
    return [*rows, ["a data file that breaks off", str(len(broken)), f"{named}: one line that names it"]]
